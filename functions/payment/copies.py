"""What a copy of a message in another queue keeps of it."""

from collections.abc import Mapping

import pika

from ticketra import messages

ATTRIBUTE_LIMIT_CHARS = 256


def copied(
    properties: pika.BasicProperties, headers: Mapping[str, str | int]
) -> pika.BasicProperties:
    """Return the properties of a copy: what a CloudEvent needs, and `headers`.

    The broker's own trail (x-death) stays behind, and so does whatever else a publisher may have
    set: what another connection is not allowed to repeat, or what leaves no room for `headers`.
    """
    kept = {
        name: value
        for name, value in (properties.headers or {}).items()
        if isinstance(name, str)  # what is no UTF-8 comes as bytes
        and name.startswith(messages.CLOUD_EVENT_PREFIX)
        and isinstance(value, str)
        and len(value) <= ATTRIBUTE_LIMIT_CHARS
    }
    return pika.BasicProperties(
        content_type=properties.content_type,
        delivery_mode=messages.PERSISTENT,
        message_id=properties.message_id,
        type=properties.type,
        headers={**kept, **headers},
    )
