"""Gives the role admin to a registered user, or takes it, in the instance's PostgreSQL."""

import json

import psycopg

from supervisor.secrets import read
from supervisor.server import ServerError
from supervisor.settings import Settings

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 5_000

_SET_ROLE = "UPDATE users SET role = %(role)s WHERE email = %(email)s"


class AdminError(Exception):
    """The role could not be set; the message says why."""


def set_admin(settings: Settings, email: str, *, revoke: bool) -> str:
    """Make the user with this e-mail address an admin, or an ordinary user; return the address.

    Raises:
        ServerError: nothing was started here yet.
        AdminError: there is no such user, or PostgreSQL refused.

    """
    try:
        endpoints = json.loads(settings.endpoints_file.read_text())
    except FileNotFoundError:
        raise ServerError("Nothing runs here yet; make up does that.") from None
    login = read(settings).login("postgres/admin")
    address = email.strip().lower()  # as identity keeps it
    try:
        with psycopg.connect(
            f"{endpoints['postgres_url']}/auth",
            user=login.username or None,
            password=login.password or None,
            connect_timeout=CONNECT_TIMEOUT_S,
            options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
        ) as connection:
            values = {"email": address, "role": "user" if revoke else "admin"}
            found = connection.execute(_SET_ROLE, values).rowcount == 1
    except psycopg.Error as error:
        raise AdminError(f"PostgreSQL did not set the role: {str(error).strip()}") from None
    if not found:
        raise AdminError(f"Nobody has registered with {address!r}.")
    return address
