-- What is sold, who holds it, and what the world still has to be told about it.
-- capacity = remaining + sum of the tickets of PENDING and CONFIRMED bookings, at every commit.

CREATE TABLE sales (
    event_id           text PRIMARY KEY CHECK (length(event_id) BETWEEN 1 AND 64),
    version            bigint NOT NULL CHECK (version >= 1),
    capacity           integer NOT NULL CHECK (capacity >= 1),
    remaining          integer NOT NULL,
    price_amount_minor bigint NOT NULL CHECK (price_amount_minor >= 0),
    price_currency     text NOT NULL,
    sales_start        timestamptz,
    sales_end          timestamptz,
    max_per_booking    integer NOT NULL CHECK (max_per_booking >= 0),
    max_per_user       integer NOT NULL CHECK (max_per_user >= 0),
    closed             boolean NOT NULL DEFAULT false,
    -- Grows each time stock goes from none to some: tells an old sold-out marker from a new one.
    stock_version      bigint NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sales_remaining_within_capacity CHECK (remaining BETWEEN 0 AND capacity),
    CONSTRAINT sales_price_has_currency
        CHECK (price_currency ~ '^[A-Z]{3}$' OR (price_currency = '' AND price_amount_minor = 0)),
    CONSTRAINT sales_end_after_start CHECK (sales_end > sales_start)
) WITH (fillfactor = 50); -- a hot row is rewritten in its own page again and again

CREATE TABLE bookings (
    id              uuid PRIMARY KEY,
    event_id        text NOT NULL REFERENCES sales (event_id),
    user_id         text NOT NULL CHECK (length(user_id) BETWEEN 1 AND 128),
    ticket_count    integer NOT NULL CHECK (ticket_count > 0),
    amount_minor    bigint NOT NULL CHECK (amount_minor >= 0),
    currency        text NOT NULL,
    status          text NOT NULL
        CHECK (status IN ('PENDING', 'CONFIRMED', 'CANCELLED', 'EXPIRED')),
    payment_status  text NOT NULL
        CHECK (payment_status IN ('pending', 'paid', 'declined', 'refunding', 'refunded')),
    reason          text NOT NULL DEFAULT '',
    hold_expires_at timestamptz NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    -- The key that the request came with, and a SHA-256 of what it asked for. They live on the
    -- booking, because a key lives exactly as long as the booking that it made.
    idempotency_key text CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    request_hash    bytea,
    CONSTRAINT bookings_key_has_hash CHECK ((idempotency_key IS NULL) = (request_hash IS NULL)),
    CONSTRAINT bookings_confirmed_is_paid
        CHECK (status <> 'CONFIRMED' OR payment_status = 'paid')
);

CREATE UNIQUE INDEX bookings_idempotency_key ON bookings (user_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX bookings_of_user ON bookings (user_id, id DESC);
CREATE INDEX bookings_due_holds ON bookings (hold_expires_at) WHERE status = 'PENDING';
CREATE INDEX bookings_holding ON bookings (event_id, user_id)
    WHERE status IN ('PENDING', 'CONFIRMED');

CREATE TABLE outbox (
    id           uuid PRIMARY KEY, -- the message id
    -- Order within one subject. Across subjects it is not the order of commits.
    position     bigint GENERATED ALWAYS AS IDENTITY,
    subject      text NOT NULL, -- the booking or the event that the message is about
    routing_key  text NOT NULL,
    body         text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);

CREATE INDEX outbox_unpublished ON outbox (position) WHERE published_at IS NULL;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;

GRANT USAGE ON SCHEMA public TO booking;
GRANT SELECT, INSERT, UPDATE ON sales, bookings TO booking;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO booking;
