"""A whole local cloud for tests: servers, LocalStack and the deployed app, on ports of its own."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
import psutil
import psycopg
from psycopg.rows import dict_row

from supervisor import cloud
from supervisor.aws import client_settings, tool_environment
from supervisor.deploy import deploy
from supervisor.progress import Progress
from supervisor.secrets import read
from supervisor.settings import REPOSITORY, Settings
from tests.ports import instance_ports

CLUSTER = "ticketra-local"
REQUEST_TIMEOUT_S = 30.0
WAIT_LIMIT_S = 60.0
POLL_S = 0.1
AWAY_STATUSES = frozenset({502, 503, 504})

Result = TypeVar("Result")


@dataclass(frozen=True)
class User:
    """A registered user and the tokens of one session."""

    id: str
    email: str
    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class Cloud:
    """One running instance; `api` speaks to its public base URL."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home).with_ports(instance_ports())
        # No connection is kept: httpcore may close one that another thread has just been given.
        self.api = httpx.Client(
            base_url=self.settings.api_url,
            timeout=REQUEST_TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def start(self) -> None:
        cloud.up(self.settings)

    def deploy(self, **stage_settings: str) -> bool:
        """Deploy with stage settings such as TICKETRA_ACCESS_POLICY; tell whether it changed."""
        return deploy(self.settings, Progress(None), {**os.environ, **stage_settings})

    def stop(self) -> None:
        self.api.close()
        cloud.clean(self.settings)

    def client(self, service: str) -> Any:
        """Return a boto3 client of the instance's LocalStack."""
        factory: Any = boto3.client
        return factory(service, **client_settings(self.settings))

    def run(self, *command: str) -> str:
        """Run a command as in a shell that has read the instance's `env.sh`; return its output."""
        path = f"{REPOSITORY}/node_modules/.bin:{REPOSITORY}/.venv/bin:{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **tool_environment(self.settings), "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_LIMIT_S * 2,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def register(self) -> User:
        email = f"user.{secrets.token_hex(6)}@example.com"
        body = {"email": email, "password": secrets.token_urlsafe(12)}
        created = self.api.post("/api/auth/register", json=body)
        assert created.status_code == 201, created.text
        return self.log_in(created.json()["id"], **body)

    def log_in(self, user_id: str, *, email: str, password: str) -> User:
        """Start a session of a registered user."""
        answer = self.api.post("/api/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        session = answer.json()
        return User(user_id, email, session["token"], session["refresh_token"], password)

    def create_event(self, owner: User, *, total_tickets: int, **fields: Any) -> str:
        body = {
            "title": "Open air",
            "location": "Harbiye",
            "date": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
            "total_tickets": total_tickets,
            "price": {"amount_minor": 5000, "currency": "EUR"},
            **fields,
        }
        created = self.api.post("/api/events", json=body, headers=owner.headers)
        assert created.status_code == 201, created.text
        event_id: str = created.json()["id"]
        return event_id

    def book(
        self, buyer: User, event_id: str, count: int, key: str | None = None
    ) -> httpx.Response:
        """Book once; the answer may be a refusal."""
        headers = buyer.headers if key is None else {**buyer.headers, "Idempotency-Key": key}
        body = {"event_id": event_id, "ticket_count": count}
        return self.api.post("/api/bookings", json=body, headers=headers)

    def book_until_there(self, buyer: User, event_id: str, count: int) -> dict[str, Any]:
        """Book as a client should: again under the same key while the service is away."""
        key = secrets.token_hex(16)

        def attempt() -> dict[str, Any] | None:
            answer = self.book(buyer, event_id, count, key)
            if answer.status_code in AWAY_STATUSES:
                return None
            assert answer.status_code in {200, 201}, answer.text
            booking: dict[str, Any] = answer.json()
            return booking

        return wait_for(attempt, "the booking was never accepted")

    def booking(self, buyer: User, booking_id: str) -> dict[str, Any]:
        answer = self.api.get(f"/api/bookings/{booking_id}", headers=buyer.headers)
        assert answer.status_code == 200, answer.text
        booking: dict[str, Any] = answer.json()
        return booking

    def settled(self, buyer: User, booking_id: str) -> dict[str, Any]:
        """Wait until payment has decided, and return the booking."""

        def final() -> dict[str, Any] | None:
            answer = self.api.get(f"/api/bookings/{booking_id}", headers=buyer.headers)
            if answer.status_code in AWAY_STATUSES:
                return None
            assert answer.status_code == 200, answer.text
            booking: dict[str, Any] = answer.json()
            return booking if booking["status"] != "PENDING" else None

        return wait_for(final, "the booking stayed PENDING")

    def ledger(self, event_id: str) -> dict[str, int]:
        """Return capacity, remaining and held (PENDING and CONFIRMED) straight from PostgreSQL."""
        login = read(self.settings).login("postgres/admin")
        with psycopg.connect(
            f"postgresql://127.0.0.1:{self.settings.postgres_port}/orders",
            user=login.username,
            password=login.password,
            row_factory=dict_row,
        ) as connection:
            row = connection.execute(
                """
                SELECT s.capacity, s.remaining, coalesce(sum(b.ticket_count), 0)::int AS held
                FROM sales s
                LEFT JOIN bookings b
                  ON b.event_id = s.event_id AND b.status IN ('PENDING', 'CONFIRMED')
                WHERE s.event_id = %s
                GROUP BY s.event_id
                """,
                (event_id,),
            ).fetchone()
        assert row is not None
        return row

    def task_processes(self, module: str) -> list[psutil.Process]:
        """Return the processes that run `python -m <module>` for this instance's services."""
        emulators = [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if "localstack.runtime.main" in (process.info["cmdline"] or [])
            and (process.info["environ"] or {}).get("TICKETRA_INSTANCE") == str(self.settings.home)
        ]
        return [
            child
            for emulator in emulators
            for child in emulator.children(recursive=True)
            if module in child.cmdline()
        ]

    def kill(self, module: str) -> None:
        """Kill every task that runs `module`, without warning."""
        processes = self.task_processes(module)
        assert processes, f"no task runs {module}"
        for process in processes:
            process.send_signal(signal.SIGKILL)


def wait_for(attempt: Callable[[], Result | None], failure: str) -> Result:
    """Return the first result of `attempt` that is not None (or False)."""
    deadline = time.monotonic() + WAIT_LIMIT_S
    while True:
        result = attempt()
        if result:
            return result
        assert time.monotonic() < deadline, failure
        time.sleep(POLL_S)
