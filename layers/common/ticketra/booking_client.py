"""The way to the booking service from a function: one lazy channel, a deadline, one safe retry."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol, TypeVar

import grpc

from ticketra import deadline, rpc
from ticketra.booking.v1.booking_pb2_grpc import BookingServiceStub
from ticketra.errors import Forbidden, Refusal, Unauthenticated, Unavailable

RETRY_PAUSE_S = 0.1
RETRY_AFTER_S = 1
MESSAGE_LIMIT_BYTES = 1024 * 1024

# A task that was restarted is found again within a second, not after gRPC's usual growing pauses.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.enable_retries", 0),
    # Or a new channel would take over the connection of the one that it replaces.
    ("grpc.use_local_subchannel_pool", 1),
)

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
ResponseT_co = TypeVar("ResponseT_co", covariant=True)


class Method(Protocol[RequestT_contra, ResponseT_co]):
    """One method of the generated stub."""

    def __call__(
        self, request: RequestT_contra, *, timeout: float, metadata: tuple[tuple[str, str], ...]
    ) -> ResponseT_co:
        """Send `request` and wait for the answer."""


class BookingClient:
    """Calls the booking service as `caller`, whose credential `load_credential` returns.

    `deadline_s` bounds a call with its retry, and so does what Lambda leaves of the invocation. The
    channel is made at the first call and kept until a call on it gets no answer: a connection may
    have died unnoticed while the function was frozen. Safe to share between threads.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        caller: str,
        load_credential: Callable[[], str],
        deadline_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._caller = caller
        self._load_credential = load_credential
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = Lock()
        self._channel: grpc.Channel | None = None
        self._calls_in_flight = 0
        self._is_broken = False

    def call(
        self,
        method: Callable[[BookingServiceStub], Method[RequestT_contra, ResponseT_co]],
        request: RequestT_contra,
        *,
        request_id: str,
        again: RequestT_contra | None = None,
    ) -> ResponseT_co:
        """Call `method` and, if the service could not be reached, once more with `again`.

        Use it for calls that may be repeated: all of the booking service's are reads, carry a
        version or an idempotency key, or do no harm and answer well when they are repeated.

        Raises:
            Refusal: the service's own; Unavailable if it is away or does not answer in time.
            grpc.RpcError: a fault of ours, such as a refused caller credential.

        """
        budget_s = min(self._deadline_s, deadline.left_s())
        if not budget_s:
            raise _unreachable()
        give_up_at = self._monotonic() + budget_s
        metadata = rpc.caller_metadata(self._caller, self._load_credential(), request_id)
        try:
            with self._stub() as stub:
                return method(stub)(request, timeout=budget_s, metadata=metadata)
        except grpc.RpcError as error:
            if not _was_unreachable(error):
                raise _answer_to(error) from error
        self._sleep(RETRY_PAUSE_S)
        left_s = max(0.0, give_up_at - self._monotonic())
        try:
            with self._stub() as stub:
                repeated = request if again is None else again
                return method(stub)(repeated, timeout=left_s, metadata=metadata)
        except grpc.RpcError as error:
            raise _answer_to(error) from error

    def close(self) -> None:
        """Close the channel; the next call opens another."""
        with self._lock:
            self._close()

    @contextmanager
    def _stub(self) -> Iterator[BookingServiceStub]:
        with self._lock:
            if self._channel is None:
                self._channel = grpc.insecure_channel(self._endpoint, options=_CHANNEL_OPTIONS)
            channel = self._channel
            self._calls_in_flight += 1
        is_broken = False
        try:
            yield BookingServiceStub(channel)
        except grpc.RpcError as error:
            is_broken = _got_no_answer(error)
            raise
        finally:
            self._end_call(channel, is_broken=is_broken)

    def _end_call(self, channel: grpc.Channel, *, is_broken: bool) -> None:
        """Close a broken channel with its last call: closing it ends the other calls on it."""
        with self._lock:
            self._calls_in_flight -= 1
            self._is_broken |= is_broken and channel is self._channel
            if self._is_broken and not self._calls_in_flight:
                self._close()

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel, self._is_broken = None, False


# A server that stops cancels the calls that had not reached it yet; we ourselves cancel none.
_UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


def _was_unreachable(error: grpc.RpcError) -> bool:
    """Tell a broken connection from a service that answered."""
    return error.code() in _UNREACHABLE and rpc.to_refusal(error) is None


def _got_no_answer(error: grpc.RpcError) -> bool:
    return _was_unreachable(error) or (
        error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and rpc.to_refusal(error) is None
    )


def _answer_to(error: grpc.RpcError) -> Refusal | grpc.RpcError:
    """Return what our own caller gets to see; what is not the caller's fault stays as it is."""
    refusal = rpc.to_refusal(error)
    if isinstance(refusal, Unauthenticated | Forbidden):
        return error  # it is this function that was refused, not the person who asked
    if isinstance(refusal, Unavailable):
        return Unavailable(
            refusal.code, refusal.detail, retry_after_s=refusal.retry_after_s or RETRY_AFTER_S
        )
    if refusal is not None:
        return refusal
    if error.code() in {*_UNREACHABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return _unreachable()
    return error


def _unreachable() -> Unavailable:
    return Unavailable(
        "booking_unavailable",
        "Bookings cannot be reached at the moment: try again shortly.",
        retry_after_s=RETRY_AFTER_S,
    )
