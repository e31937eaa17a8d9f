-- A payment is rewritten two or three times within milliseconds. With room in its page, and no index
-- on what changes, that touches no index at all. Nobody asks for payments by state: `make reconcile`
-- reads all of them.
DROP INDEX payment.payments_in_flight;
ALTER TABLE payment.payments SET (fillfactor = 50);
ALTER TABLE payment.attempts SET (fillfactor = 70);
