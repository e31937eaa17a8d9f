"""The payment worker's settings."""

from pydantic import BaseModel, Field, SecretStr


class WorkerSettings(BaseModel):
    """Environment variables of the worker, named like the fields in upper case.

    URLs carry no credentials. An empty user name means that the server asks for none.
    """

    postgres_url: str = Field(min_length=1)
    postgres_username: str = ""
    postgres_password: SecretStr = SecretStr("")
    rabbitmq_url: str = Field(min_length=1)
    rabbitmq_username: str = ""
    rabbitmq_password: SecretStr = SecretStr("")
    booking_endpoint: str = Field(min_length=1)
    booking_caller_credential: SecretStr = Field(min_length=1)
