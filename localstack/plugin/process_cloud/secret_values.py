"""Values of a container's `secrets`, from Secrets Manager and SSM parameters."""

import json
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError


class SecretError(Exception):
    """A secret can't be had; the message is a task's stopped reason."""

    def __init__(self, value_from: str, why: str) -> None:
        super().__init__(
            "ResourceInitializationError: unable to pull secrets or registry auth: "
            f"{value_from}: {why}"
        )


@dataclass(frozen=True)
class SecretReference:
    """What a `valueFrom` names.

    Attributes
    ----------
    service : str
        `secretsmanager`, `ssm`, or empty for a bare name, which may be either's.
    identifier : str
        ARN or name.
    json_key, version_stage, version_id : str
        Only for Secrets Manager; empty if not given.
    """

    service: str
    identifier: str
    json_key: str = ""
    version_stage: str = ""
    version_id: str = ""


def parse_reference(value_from: str) -> SecretReference:
    """Parse a `valueFrom`.

    Forms: `arn:…:secretsmanager:region:account:secret:name[:json-key:version-stage:version-id]`,
    `arn:…:ssm:region:account:parameter/name`, or a bare name.
    """
    if not value_from.startswith("arn:"):
        return SecretReference("", value_from)
    parts = value_from.split(":")
    service = parts[2] if len(parts) > 2 else ""
    if service == "ssm":
        return SecretReference("ssm", value_from)
    if service != "secretsmanager" or len(parts) not in {7, 10}:
        why = "neither a Secrets Manager secret nor an SSM parameter"
        raise SecretError(value_from, why)
    return SecretReference("secretsmanager", ":".join(parts[:7]), *parts[7:])


def resolve(value_from: str, clients: Any) -> str:
    """Return the value; `clients` has `secretsmanager` and `ssm`. Raises SecretError."""
    reference = parse_reference(value_from)
    try:
        if reference.service == "secretsmanager":
            return _secret(value_from, reference, clients.secretsmanager)
        if reference.service == "ssm":
            return _parameter(reference.identifier.partition(":parameter")[2], clients.ssm)
        return _named(value_from, reference, clients)
    except (ClientError, BotoCoreError) as error:
        raise SecretError(value_from, str(error)) from error


def _named(value_from: str, reference: SecretReference, clients: Any) -> str:
    """Look up a bare name: a parameter, as ECS has it, else a secret."""
    try:
        return _parameter(reference.identifier, clients.ssm)
    except clients.ssm.exceptions.ParameterNotFound:
        return _secret(value_from, reference, clients.secretsmanager)


def _parameter(name: str, ssm: Any) -> str:
    try:
        answer = ssm.get_parameter(Name=name, WithDecryption=True)
    except ssm.exceptions.ParameterNotFound:
        # An ARN has one slash before the name, whether or not the name begins with one.
        if name.count("/") != 1 or not name.startswith("/"):
            raise
        answer = ssm.get_parameter(Name=name.removeprefix("/"), WithDecryption=True)
    return str(answer["Parameter"]["Value"])


def _secret(value_from: str, reference: SecretReference, secretsmanager: Any) -> str:
    versions = {"VersionStage": reference.version_stage, "VersionId": reference.version_id}
    chosen = {name: value for name, value in versions.items() if value}
    answer = secretsmanager.get_secret_value(SecretId=reference.identifier, **chosen)
    value = answer.get("SecretString")
    if value is None:
        why = "the secret has no string value"
        raise SecretError(value_from, why)
    if not reference.json_key:
        return str(value)
    try:
        return str(json.loads(value)[reference.json_key])
    except (ValueError, KeyError, TypeError) as error:
        why = f"the secret is no JSON object with the key {reference.json_key}"
        raise SecretError(value_from, why) from error
