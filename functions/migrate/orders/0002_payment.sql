-- What the payment worker stores. Its role sees this schema and nothing of bookings or sales.
CREATE SCHEMA payment;

-- One row for each booking: the unique booking_id is what makes a booking be charged at most once.
CREATE TABLE payment.payments (
    id uuid PRIMARY KEY, -- UUIDv7
    booking_id uuid NOT NULL UNIQUE,
    ticket_count integer NOT NULL CHECK (ticket_count > 0),
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    currency text NOT NULL CHECK (currency ~ '^([A-Z]{3})?$'), -- empty: the event has no price
    state text NOT NULL CHECK (
        state IN ('started', 'paid', 'declined', 'refunding', 'succeeded', 'failed', 'refunded')
    ),
    reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 500),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- For operators: what is still in flight. Final payments, nearly all, are not in this index.
CREATE INDEX payments_in_flight ON payment.payments (updated_at)
WHERE state IN ('started', 'paid', 'declined', 'refunding');

-- The messages that were received; an id is that of booking's outbox row.
CREATE TABLE payment.inbox (
    message_id text PRIMARY KEY CHECK (length(message_id) BETWEEN 1 AND 255),
    received_at timestamptz NOT NULL DEFAULT now()
);

-- The built-in provider's own books. They stand for another company's, so nothing refers to them.
CREATE TABLE payment.mock_bank_charges (
    booking_id uuid PRIMARY KEY, -- the idempotency key
    ticket_count integer NOT NULL,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    status text NOT NULL CHECK (status IN ('paid', 'declined', 'refunded')),
    reason text NOT NULL,
    charged_at timestamptz NOT NULL DEFAULT now(),
    refunded_at timestamptz,
    CHECK ((status = 'refunded') = (refunded_at IS NOT NULL))
);

GRANT USAGE ON SCHEMA payment TO payment;
GRANT SELECT, INSERT ON payment.inbox TO payment;
GRANT SELECT, INSERT, UPDATE ON payment.payments, payment.mock_bank_charges TO payment;
