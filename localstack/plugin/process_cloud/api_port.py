"""Gives a port to one deployed API: what arrives there is served as if under the API's own path."""

from collections.abc import Mapping

from localstack.aws.api import RequestContext
from localstack.aws.chain import HandlerChain
from localstack.http import Response

from process_cloud.settings import ApiRoute

EXECUTE_API = "/_aws/execute-api"


class ApiPortRouter:
    """A request handler that rewrites the path of what came in on an API's port."""

    def __init__(self, routes: Mapping[int, ApiRoute]) -> None:
        self._routes = {str(port): _prefix(route) for port, route in routes.items()}

    def __call__(self, _chain: HandlerChain, context: RequestContext, _response: Response) -> None:
        """Rewrite the request; the port is that of the socket, whatever the Host header says."""
        request = context.request
        prefix = self._routes.get(request.environ.get("SERVER_PORT", ""))
        if prefix is None:
            return
        raw = without_origin(request.environ.get("RAW_URI") or request.path)
        request.path = request.environ["PATH_INFO"] = prefix + request.path
        request.environ["RAW_URI"] = request.environ["REQUEST_URI"] = prefix + raw


def without_origin(uri: str) -> str:
    """Return path and query of a request target, which may be a whole URL."""
    if uri.startswith("/"):
        return uri
    rest = uri.partition("://")[2]
    return rest[rest.index("/") :] if "/" in rest else "/"


def _prefix(route: ApiRoute) -> str:
    return f"{EXECUTE_API}/{route.api_id}/{route.stage}"
