"""What a copy of a message in another queue keeps of it."""

from collections.abc import Mapping

import pika

from ticketra import messages

ATTRIBUTE_LIMIT_CHARS = 256


def copied(
    properties: pika.BasicProperties, headers: Mapping[str, str | int]
) -> pika.BasicProperties:
    """Return the properties of a copy: the attributes of a CloudEvent, and `headers`.

    The broker's own trail (x-death) stays behind, and so does whatever else a publisher may have
    set: what another connection is not allowed to repeat, or what leaves no room for `headers`.
    """
    found = properties.headers or {}
    names = (messages.CLOUD_EVENT_PREFIX + name for name in messages.CLOUD_EVENT_ATTRIBUTES)
    kept = {
        name: found[name]
        for name in names
        if isinstance(found.get(name), str) and len(found[name]) <= ATTRIBUTE_LIMIT_CHARS
    }
    return pika.BasicProperties(
        content_type=properties.content_type,
        delivery_mode=messages.PERSISTENT,
        message_id=properties.message_id,
        type=properties.type,
        headers={**kept, **headers},
    )
