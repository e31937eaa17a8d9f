-- What a message about a booking says that payment reads, so that it can be sent again; and when a
-- PENDING booking was made, since its hold changes when it was updated.
CREATE OR REPLACE VIEW payment.booking_states AS
    SELECT id AS booking_id, status, payment_status, updated_at,
           created_at, ticket_count, amount_minor, currency, hold_expires_at, reason
    FROM public.bookings;
