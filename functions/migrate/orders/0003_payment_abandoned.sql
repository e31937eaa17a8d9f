-- A payment whose booking ended before the provider was asked is not asked for any more.
ALTER TABLE payment.payments
    DROP CONSTRAINT payments_state_check,
    ADD CONSTRAINT payments_state_check CHECK (
        state IN (
            'started', 'paid', 'declined', 'refunding', 'succeeded', 'failed', 'refunded',
            'abandoned'
        )
    );
