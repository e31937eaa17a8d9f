"""One typed settings model for each process, read from the environment and checked at start."""

import os
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)


class SettingsError(Exception):
    """Environment variables are missing or wrong; the message names each of them."""


def load_settings(model: type[Settings], environ: Mapping[str, str] | None = None) -> Settings:
    """Fill `model` from environment variables named like its fields in upper case.

    Raises:
        SettingsError: naming every variable that is missing or has a wrong value, never the value
            itself, which may be a secret.

    """
    variables = os.environ if environ is None else environ
    values = {
        name: variables[name.upper()] for name in model.model_fields if name.upper() in variables
    }
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{str(problem['loc'][0]).upper() if problem['loc'] else model.__name__}: "
            f"{problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(f"wrong settings for {model.__name__}: {problems}") from None
