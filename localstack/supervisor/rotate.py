"""Rotates the token keys of an instance: in its secrets file and in the emulator.

The file is what counts: a run that is cut off is completed by the next `up`, which puts into the
emulator what the file holds.
"""

from datetime import datetime

from supervisor import aws
from supervisor.lock import locked
from supervisor.progress import Progress
from supervisor.secrets import Secrets, keep, load_or_make, token_key
from supervisor.settings import Settings
from supervisor.token_keys import droppable_at, only_newest, retired, rotated, without_retired


def rotate_keys(settings: Settings, progress: Progress, now: datetime) -> None:
    """Make a new token key, publish it at once, and let it sign when every cache has it.

    Raises:
        RotationError: a rotation is under way, or there are too many keys.

    """
    with locked(settings.lock_file, "rotate-keys", progress.say):
        before = load_or_make(settings)
        secrets = before.with_token_keys(rotated(before.token_keys, token_key(), now))
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


def _replace(settings: Settings, secrets: Secrets) -> None:
    """Put fewer keys in place; identity stops signing with one before it is withdrawn."""
    keep(settings, secrets)
    aws.put_token_keys(settings, secrets)
    aws.publish_token_keys(settings, secrets)
