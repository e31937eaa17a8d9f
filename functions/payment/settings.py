"""The settings of the payment worker and of the commands beside it."""

from pydantic import BaseModel, Field, SecretStr


class PostgresSettings(BaseModel):
    """How to reach the `orders` database; an empty user name means that it asks for none."""

    postgres_url: str = Field(min_length=1)
    postgres_username: str = ""
    postgres_password: SecretStr = SecretStr("")


class RabbitMQSettings(BaseModel):
    """How to reach RabbitMQ; an empty user name leaves it to the client's default."""

    rabbitmq_url: str = Field(min_length=1)
    rabbitmq_username: str = ""
    rabbitmq_password: SecretStr = SecretStr("")


class WorkerSettings(PostgresSettings, RabbitMQSettings):
    """Environment variables of the worker, named like the fields in upper case.

    URLs carry no credentials.
    """

    booking_endpoint: str = Field(min_length=1)
    booking_caller_credential: SecretStr = Field(min_length=1)
