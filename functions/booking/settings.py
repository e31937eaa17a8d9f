"""The settings of the booking task, read from the environment."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, SecretStr

from ticketra.ticket_codes import TicketSigner


class PostgresSettings(BaseModel):
    """How to reach the `orders` database; an empty user name means that it asks for none."""

    postgres_url: str
    postgres_username: str = ""
    postgres_password: SecretStr = SecretStr("")


class BookingSettings(PostgresSettings):
    """Addresses hold no credentials; an empty user name means that the server asks for none.

    `hold_ttl_s` is how long a PENDING booking holds its tickets, `hold_max_s` how far that is
    extended while its payment is in flight, or while an outage of ours keeps it from starting.
    `ticket_keys` is the secret that ticket codes are signed with; see TicketSigner.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    listen_address: str
    redis_url: str
    redis_username: str = ""
    redis_password: SecretStr = SecretStr("")
    rabbitmq_url: str
    rabbitmq_username: str = ""
    rabbitmq_password: SecretStr = SecretStr("")
    caller_credential_gateway: SecretStr = Field(min_length=1)
    caller_credential_event: SecretStr = Field(min_length=1)
    caller_credential_payment: SecretStr = Field(min_length=1)
    ticket_keys: Annotated[TicketSigner, PlainValidator(TicketSigner.from_secret)]
    hold_ttl_s: int = Field(default=600, ge=1)
    hold_max_s: int = Field(default=3600, ge=1)
