"""The Link header of a list (RFC 8288)."""

from urllib.parse import urlencode

from gateway.models import PageQuery


def next_link(cursor: str, query: PageQuery) -> str:
    """Return the Link to the page from `cursor` on; its target is relative to the request's URL."""
    target = {"cursor": cursor, **query.model_dump(exclude={"cursor"}, exclude_none=True)}
    return f'<?{urlencode(target)}>; rel="next"'
