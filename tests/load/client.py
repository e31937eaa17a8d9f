"""The load: a closed loop of callers in one process, the same for every server that is measured.

Run as `python -m tests.load.client` with a Plan as JSON on standard input; prints a Report as JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import uvloop

from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc

DEADLINE_S = 20.0
READY_LIMIT_S = 15.0


@dataclass(frozen=True)
class Plan:
    """What to send. Caller number n books events[n % len(events)], again and again."""

    addresses: list[str]
    credential: str
    events: list[str]
    in_flight: int
    seconds: float
    run: str
    """makes the idempotency keys of this run different from those of any other"""


@dataclass(frozen=True)
class Report:
    """What came back: answers by name ("OK" or the reason of a refusal), and their latency."""

    seconds: float
    answers: dict[str, int]
    p50_ms: float
    p99_ms: float

    @property
    def ok(self) -> int:
        return self.answers.get("OK", 0)

    @property
    def refused(self) -> int:
        return sum(self.answers.values()) - self.ok


class Load:
    """Runs one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._answers: Counter[str] = Counter()
        self._latencies_s: list[float] = []
        self._metadata = rpc.caller_metadata("gateway", plan.credential, "load")

    async def run(self) -> Report:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(a, options=options) for a in self._plan.addresses]
        stubs: list[Any] = [pb_grpc.BookingServiceStub(channel) for channel in channels]
        for channel in channels:
            await asyncio.wait_for(channel.channel_ready(), READY_LIMIT_S)
        started = time.perf_counter()
        until = started + self._plan.seconds
        await asyncio.gather(
            *(
                self._call(number, stubs[number % len(stubs)], until)
                for number in range(self._plan.in_flight)
            )
        )
        seconds = time.perf_counter() - started
        for channel in channels:
            await channel.close()
        ordered = sorted(self._latencies_s)
        return Report(
            seconds,
            dict(self._answers),
            p50_ms=ordered[len(ordered) // 2] * 1000,
            p99_ms=ordered[len(ordered) * 99 // 100] * 1000,
        )

    async def _call(self, number: int, stub: Any, until: float) -> None:
        events, count = self._plan.events, 0
        while (now := time.perf_counter()) < until:
            request = pb.CreateBookingRequest(
                event_id=events[(number + count * self._plan.in_flight) % len(events)],
                user_id=f"user-{number}",
                ticket_count=1,
                idempotency_key=f"{self._plan.run}-{number}-{count}",
                key_is_fresh=True,
            )
            count += 1
            try:
                await stub.CreateBooking(request, metadata=self._metadata, timeout=DEADLINE_S)
                name = "OK"
            except grpc.aio.AioRpcError as error:
                refusal = rpc.to_refusal(error)
                name = refusal.code if refusal is not None else error.code().name
            self._answers[name] += 1
            self._latencies_s.append(time.perf_counter() - now)


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    print(json.dumps(asdict(uvloop.run(Load(plan).run()))))


if __name__ == "__main__":
    main()
