-- What a confirmed booking is: one ticket for each seat. The code that a door checks is not kept:
-- it is a signature over these columns, made when a ticket is shown, and the same each time.

CREATE TABLE tickets (
    id         uuid PRIMARY KEY, -- UUIDv7
    booking_id uuid NOT NULL REFERENCES bookings (id),
    number     integer NOT NULL CHECK (number > 0), -- from 1 to the booking's ticket_count
    status     text NOT NULL DEFAULT 'valid' CHECK (status IN ('valid', 'void')),
    UNIQUE (booking_id, number)
);

-- What is left to do for a sale that was closed: its bookings have to be cancelled.
ALTER TABLE sales ADD COLUMN bookings_ended boolean NOT NULL DEFAULT false;
CREATE INDEX sales_ending ON sales (event_id) WHERE closed AND NOT bookings_ended;

GRANT SELECT, INSERT, UPDATE ON tickets TO booking;
