-- Every attempt to bring a payment on: one row for each time a message about it was delivered.
CREATE TABLE payment.attempts (
    id uuid PRIMARY KEY, -- UUIDv7
    booking_id uuid NOT NULL,
    message_id text NOT NULL,
    began_in text NOT NULL, -- the payment's state then
    started_at timestamptz NOT NULL DEFAULT now(),
    -- All three empty: the worker died, or is at it.
    ended_in text,
    ended_at timestamptz,
    failure text CHECK (length(failure) <= 500), -- why it did not come to a final state
    CHECK ((ended_in IS NULL) = (ended_at IS NULL))
);

CREATE INDEX attempts_of_booking ON payment.attempts (booking_id, id);

-- What became of payments, for whoever wants to know. The same shape as booking's outbox.
CREATE TABLE payment.outbox (
    id uuid PRIMARY KEY, -- the message id
    position bigint GENERATED ALWAYS AS IDENTITY,
    subject text NOT NULL, -- the booking
    routing_key text NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);

CREATE INDEX outbox_unpublished ON payment.outbox (position) WHERE published_at IS NULL;
CREATE INDEX outbox_published ON payment.outbox (published_at) WHERE published_at IS NOT NULL;

-- A message comes again within hours, not weeks: old ones are pruned.
CREATE INDEX inbox_received ON payment.inbox (received_at);

-- What the built-in provider was told to do, for trials; nothing here: it answers at once.
CREATE TABLE payment.mock_bank_behaviour (
    behaviour text PRIMARY KEY
        CHECK (behaviour IN ('slow', 'time_out', 'fail', 'twice', 'late')),
    -- slow and late: milliseconds; time_out, fail and twice: how many charges of 100
    amount integer NOT NULL CHECK (amount > 0)
);

ALTER TABLE payment.mock_bank_charges
    -- Until then the answer is that it is not decided yet.
    ADD COLUMN answered_at timestamptz NOT NULL DEFAULT now(),
    -- How often it was asked for this charge; it is made once.
    ADD COLUMN asked integer NOT NULL DEFAULT 1;

-- All that payment may know of bookings, to compare its own books with.
CREATE VIEW payment.booking_states AS
    SELECT id AS booking_id, status, payment_status, updated_at FROM public.bookings;

GRANT SELECT, INSERT, UPDATE ON payment.attempts TO payment;
GRANT SELECT, INSERT, UPDATE, DELETE ON payment.outbox TO payment;
GRANT DELETE ON payment.inbox TO payment;
GRANT SELECT, INSERT, UPDATE, DELETE ON payment.mock_bank_behaviour TO payment;
GRANT SELECT ON payment.booking_states TO payment;
