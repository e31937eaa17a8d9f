-- Users of the identity function. Addresses come normalised (lower case, no space around them),
-- so a plain unique index decides who has one.
CREATE TABLE users (
    id uuid PRIMARY KEY,
    email text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_email_normalised CHECK (
        email = lower(btrim(email)) AND char_length(email) BETWEEN 3 AND 254
    ),
    CONSTRAINT users_password_hash_is_bcrypt CHECK (password_hash ~ '^\$2b\$[0-9]{2}\$.{53}$'),
    CONSTRAINT users_role_known CHECK (role IN ('user', 'admin'))
);

GRANT USAGE ON SCHEMA public TO identity;
GRANT SELECT, INSERT ON users TO identity;
