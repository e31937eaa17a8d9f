-- Bookings that were confirmed before there were tickets get theirs, as the transaction that confirms
-- one issues them: a row for each seat, numbered from 1. A booking that has tickets gets none. What a
-- task of that time still confirms, until it has been replaced, is named by `make reconcile`.
--
-- The bookings are locked first, in the order of all who lock several. Whoever cancels one meanwhile
-- waits, and finds the tickets that have to become void; who came first has cancelled it already.
--
-- The ids are UUIDv7 like those of all tickets, so that they sort by the time of issue and new ones
-- come last in the index. PostgreSQL makes such ids from version 18 on only: here they are put
-- together from the milliseconds since 1970, the version, and what follows it in a random UUIDv4.

WITH ticketless AS MATERIALIZED (
    SELECT id, ticket_count
      FROM bookings
     WHERE status = 'CONFIRMED'
       AND NOT EXISTS (SELECT FROM tickets WHERE booking_id = bookings.id)
     ORDER BY id
       FOR UPDATE
)
INSERT INTO tickets (id, booking_id, number)
SELECT (
           lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
           || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14)
       )::uuid,
       ticketless.id,
       number
  FROM ticketless, generate_series(1, ticket_count) AS number;
