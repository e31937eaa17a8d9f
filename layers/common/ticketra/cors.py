"""Which web pages may read the API's answers (CORS), as https://fetch.spec.whatwg.org has it.

The functions answer preflights themselves: API Gateway's mock integration knows one origin only.
Credentials (cookies) are never allowed; a token travels in a header that the page sets itself.
"""

from collections.abc import Iterable

ANY_ORIGIN = "*"
ANY_PORT = ":*"
MAX_AGE_S = 600
METHODS = "GET, POST, PATCH, DELETE"
REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Request-Id"
)
EXPOSED_HEADERS = (
    "ETag, Idempotent-Replayed, Link, Location, Retry-After, X-Request-Id, X-Total-Count, "
    "X-Total-Count-Relation"
)

Headers = list[tuple[str, str]]


class CorsPolicy:
    """Origins such as `https://shop.example`; `http://localhost:*` is any port, `*` any origin."""

    def __init__(self, origins: Iterable[str]) -> None:
        known = frozenset(origins)
        self._takes_any = ANY_ORIGIN in known
        self._origins = known
        self._hosts = tuple(o.removesuffix(ANY_PORT) for o in known if o.endswith(ANY_PORT))
        self._is_off = not known

    def headers(self, origin: str | None) -> Headers:
        """Return what an answer to a page of `origin` carries."""
        if self._is_off:
            return []
        vary = [("Vary", "Origin")]  # a cache must not show one origin's answer to another
        if origin is None or not self._allows(origin):
            return vary
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", EXPOSED_HEADERS),
            *vary,
        ]

    def preflight_headers(self, origin: str | None) -> Headers | None:
        """Return what the answer to a preflight adds; None if its origin may not call."""
        if origin is None or not self._allows(origin):
            return None
        return [
            ("Access-Control-Allow-Methods", METHODS),
            ("Access-Control-Allow-Headers", REQUEST_HEADERS),
            ("Access-Control-Max-Age", str(MAX_AGE_S)),
        ]

    def _allows(self, origin: str) -> bool:
        if self._takes_any or origin in self._origins:
            return True
        host, _, port = origin.rpartition(":")
        return port.isascii() and port.isdigit() and host in self._hosts
