"""A small API client for the demo: prints what it sends and gets, and tries again while told to."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import httpx

from demo import show

TIMEOUT_S = 30.0
AWAY_STATUSES = frozenset({502, 503, 504})
GIVE_UP_AFTER_S = 60.0
PAUSE_S = 1.0


class DemoError(Exception):
    """The API did not answer as the demo has to rely on."""


class Client:
    """Speaks JSON to the API at `api_url`; carries the token once there is one."""

    def __init__(self, api_url: str) -> None:
        self._http = httpx.Client(base_url=api_url, timeout=TIMEOUT_S, trust_env=False)
        self.token: str | None = None

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        expect: int,
        shown: Sequence[str],
        keyed: bool = False,
    ) -> Any:
        """Send one request, print it with its answer, and return the answer's JSON.

        Of the answer, the fields `shown` are printed. While the service is away the request is sent
        again; with `keyed` under the same Idempotency-Key, so that it takes effect once.

        Raises:
            DemoError: another status than `expect` came back.

        """
        show.request(method, path, body)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if keyed:
            headers["Idempotency-Key"] = str(uuid.uuid4())
        started = time.monotonic()
        response = self._send_until_there(method, path, body, headers)
        answer = response.json()
        seconds = time.monotonic() - started
        if response.status_code != expect:
            show.answer(response.status_code, seconds, answer)
            raise DemoError(f"{method} {path} answered {response.status_code}, not {expect}")
        show.answer(response.status_code, seconds, {name: answer[name] for name in shown})
        return answer

    def read(self, path: str) -> Any:
        """GET `path` without printing; an answer that says 'away' reads as None."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        response = self._http.get(path, headers=headers)
        if response.status_code in AWAY_STATUSES:
            return None
        if response.status_code != 200:
            raise DemoError(f"GET {path} answered {response.status_code}: {response.text}")
        return response.json()

    def _send_until_there(
        self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> httpx.Response:
        give_up_at = time.monotonic() + GIVE_UP_AFTER_S
        while True:
            response = self._http.request(method, path, json=body, headers=headers)
            if response.status_code not in AWAY_STATUSES or time.monotonic() > give_up_at:
                return response
            show.note(f"{response.status_code}: away for the moment, trying again")
            time.sleep(PAUSE_S)
