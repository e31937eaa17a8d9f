-- Refresh tokens: of each only its SHA-256, so that who reads this table can use none of them. A
-- login starts a family; each refresh spends one token and puts its successor into the family.
CREATE TABLE refresh_tokens (
    token_hash bytea PRIMARY KEY,
    family_id uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES users (id),
    expires_at timestamptz NOT NULL,
    spent_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT refresh_tokens_hash_is_sha256 CHECK (octet_length(token_hash) = 32)
);

-- A family has one live token; the function's locks see to that, and this stands behind them.
CREATE UNIQUE INDEX refresh_tokens_live_of_family ON refresh_tokens (family_id)
    WHERE spent_at IS NULL AND revoked_at IS NULL;
-- For ending all sessions of a user.
CREATE INDEX refresh_tokens_live_of_user ON refresh_tokens (user_id)
    WHERE spent_at IS NULL AND revoked_at IS NULL;
-- For pruning.
CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);

GRANT SELECT, INSERT, DELETE, UPDATE (spent_at, revoked_at) ON refresh_tokens TO identity;
-- Also what a role needs to lock a user's row, in which changes of their sessions queue up.
GRANT UPDATE (password_hash) ON users TO identity;
