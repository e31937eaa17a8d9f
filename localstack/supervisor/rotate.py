"""Rotates the keys that sign tokens or tickets: in the secrets file and in the emulator.

The file is what counts: a run that is cut off is completed by the next `up`, which puts into the
emulator what the file holds.
"""

from datetime import datetime

from botocore.exceptions import WaiterError

from supervisor import aws, ticket_keys
from supervisor.lock import locked
from supervisor.progress import Progress
from supervisor.secrets import Secrets, keep, load_or_make, signing_key
from supervisor.settings import Settings
from supervisor.token_keys import (
    RotationError,
    droppable_at,
    only_newest,
    retired,
    rotated,
    without_retired,
)


def rotate_keys(settings: Settings, progress: Progress, now: datetime) -> None:
    """Make a new token key, publish it at once, and let it sign when every cache has it.

    Raises:
        RotationError: a rotation is under way, or there are too many keys.

    """
    with locked(settings.lock_file, "rotate-keys", progress.say):
        before = load_or_make(settings)
        secrets = before.with_token_keys(rotated(before.token_keys, signing_key(), now))
        aws.publish_token_keys(settings, secrets)  # before anybody can sign with the new one
        keep(settings, secrets)
        aws.put_token_keys(settings, secrets)
    following = secrets.token_keys["next"]
    progress.say(f"The key {following['kid']} is published, and signs from")
    progress.say(f"{following['signs_from']} on. Tokens of the old key stay valid.")


def drop_keys(settings: Settings, progress: Progress, now: datetime) -> None:
    """Drop the retired keys of which no token can be valid any more."""
    with locked(settings.lock_file, "rotate-keys", progress.say):
        before = load_or_make(settings)
        secrets = before.with_token_keys(without_retired(before.token_keys, now))
        _replace(settings, secrets)
    dropped = len(before.token_keys["keys"]) - len(secrets.token_keys["keys"])
    progress.say(f"Dropped {dropped} retired {'key' if dropped == 1 else 'keys'}")
    for key in retired(secrets.token_keys, now):
        until = droppable_at(key).isoformat(timespec="seconds")
        progress.say(f"The retired key {key['kid']} verifies tokens until {until}")


def drop_all_but_newest(settings: Settings, progress: Progress) -> None:
    """Let only the newest key be good, from now on: for when another one has leaked.

    Every token of another key is refused as soon as the functions' copies of the key set are too
    old; sessions go on, with a refresh.
    """
    with locked(settings.lock_file, "rotate-keys", progress.say):
        before = load_or_make(settings)
        secrets = before.with_token_keys(only_newest(before.token_keys))
        _replace(settings, secrets)
    progress.say(f"Only the key {secrets.token_keys['active']} is good now")


def rotate_ticket_keys(settings: Settings, progress: Progress) -> None:
    """Make a new key for tickets, publish it, and let new booking tasks sign with it.

    Raises:
        RotationError: there are too many keys, or the booking tasks could not be replaced.

    """
    with locked(settings.lock_file, "rotate-keys", progress.say):
        before = load_or_make(settings)
        ring = ticket_keys.rotated(before.ticket_keys, signing_key())
        secrets = before.with_ticket_keys(ring)
        aws.publish_ticket_keys(settings, secrets)  # before anybody can sign with the new one
        keep(settings, secrets)
        aws.put_ticket_keys(settings, secrets)
        _replace_booking_tasks(settings, progress)
    progress.say(f"The key {ring['active']} signs tickets. Doors need the key set anew; codes of")
    progress.say("the old key stay valid.")


def drop_all_ticket_keys_but_newest(settings: Settings, progress: Progress) -> None:
    """Let only the newest key verify tickets: when another one has leaked, or is out of use.

    Raises:
        RotationError: the booking tasks could not be replaced.

    """
    with locked(settings.lock_file, "rotate-keys", progress.say):
        before = load_or_make(settings)
        secrets = before.with_ticket_keys(only_newest(before.ticket_keys))
        keep(settings, secrets)
        aws.put_ticket_keys(settings, secrets)
        _replace_booking_tasks(settings, progress)  # one may still sign with what is withdrawn next
        aws.publish_ticket_keys(settings, secrets)
    progress.say(
        f"Only the key {secrets.ticket_keys['active']} verifies tickets now. Codes of other"
    )
    progress.say("keys are not valid any more: buyers get new ones from their booking's tickets.")


def _replace_booking_tasks(settings: Settings, progress: Progress) -> None:
    try:
        is_deployed = aws.replace_booking_tasks(settings)
    except WaiterError:
        raise RotationError(
            "The keys are in place, but the booking tasks could not be replaced: see "
            "make logs NAME=booking, then make deploy."
        ) from None
    if not is_deployed:
        progress.say("No booking task is deployed; the next one reads the keys when it starts.")


def _replace(settings: Settings, secrets: Secrets) -> None:
    """Put fewer keys in place; identity stops signing with one before it is withdrawn."""
    keep(settings, secrets)
    aws.put_token_keys(settings, secrets)
    aws.publish_token_keys(settings, secrets)
