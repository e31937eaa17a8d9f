"""The settings of the migrate task, read from the environment."""

from typing import Literal

from pydantic import BaseModel, SecretStr


class MigrateSettings(BaseModel):
    """Where the databases are, who may change them, and the roles that the services log in with.

    `postgres_url` holds no database name and no credentials. The admin role needs CREATEDB and
    CREATEROLE. The role names are fixed, because the SQL files grant to them. An empty MongoDB
    admin name means that the server asks for no credentials.
    """

    postgres_url: str
    postgres_username: str
    postgres_password: SecretStr
    postgres_identity_username: Literal["identity"]
    postgres_identity_password: SecretStr
    postgres_booking_username: Literal["booking"]
    postgres_booking_password: SecretStr
    postgres_payment_username: Literal["payment"]
    postgres_payment_password: SecretStr
    mongodb_url: str
    mongodb_username: str = ""
    mongodb_password: SecretStr = SecretStr("")
    mongodb_event_username: str
    mongodb_event_password: SecretStr
    mongodb_database: str = "events"
