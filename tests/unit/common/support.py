"""What the tests of the HTTP functions share: keys, tokens, API Gateway events, a fake booking."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from ticketra import errors, rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1.booking_pb2_grpc import (
    BookingServiceServicer,
    add_BookingServiceServicer_to_server,
)
from ticketra.tokens import TokenVerifier

ISSUER = "https://issuer.test"
AUDIENCE = "ticketra-test"
USER_ID = "01890000-0000-7000-8000-000000000001"
OTHER_ID = "01890000-0000-7000-8000-000000000002"
CREDENTIAL = "the-credential"


@dataclass
class SigningKey:
    """An Ed25519 key as the token-keys secret and the published key set hold it."""

    kid: str = "key-1"
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @cached_property
    def pem(self) -> str:
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    @cached_property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @cached_property
    def jwk(self) -> dict[str, str]:
        x = self.private.public_key().public_bytes_raw()
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": jwt.utils.base64url_encode(x).decode(),
            "kid": self.kid,
            "alg": "EdDSA",
            "use": "sig",
        }

    @cached_property
    def jwks(self) -> str:
        return json.dumps({"keys": [self.jwk]})

    @cached_property
    def secret(self) -> str:
        return json.dumps(
            {"active": self.kid, "keys": [{"kid": self.kid, "private_key_pem": self.pem}]}
        )

    def verifier(self) -> TokenVerifier:
        return TokenVerifier(lambda: self.jwks, issuer=ISSUER, audience=AUDIENCE)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return valid claims with `changes`; a change to None leaves the claim out."""
        now = int(time.time())
        claims = {
            "sub": USER_ID,
            "role": "user",
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 600,
            "jti": "one",
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, **changes: Any) -> str:
        return jwt.encode(
            self.claims(**changes),
            self.private,
            algorithm="EdDSA",
            headers={"kid": self.kid, "typ": "at+jwt"},
        )

    def bearer(self, **changes: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(**changes)}"}


@dataclass
class LambdaContext:
    """The context object that a Lambda runtime passes to a handler."""

    function_name: str = "function"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:000000000000:function:function"
    aws_request_id: str = "lambda-request"
    remaining_ms: int = 20_000

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


def api_event(
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return an API Gateway proxy event (format 1.0); `body` is JSON-encoded unless a string."""
    sent = {"Host": "api.test", "Content-Type": "application/json"} | (headers or {})
    return {
        "resource": "/api/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": query and {k: [v] for k, v in query.items()},
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "requestId": "from-api-gateway",
            "stage": "local",
            "identity": {"sourceIp": "127.0.0.1"},
        },
        "body": body if body is None or isinstance(body, str) else json.dumps(body),
        "isBase64Encoded": False,
    }


@dataclass
class Call:
    """One call that reached the fake booking service."""

    method: str
    request: Any
    metadata: dict[str, str]
    time_left_s: float
    peer: str


class FakeBooking(BookingServiceServicer):
    """A booking service in memory; `failures` are answered first, one for each call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.failures: list[errors.Refusal | grpc.StatusCode] = []
        self.delay_s = 0.0
        self.sales: dict[str, pb.Sale] = {}
        self.bookings: dict[str, pb.Booking] = {}
        self.keys: dict[str, str] = {}

    def CreateBooking(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("CreateBooking", request, context)
        if request.idempotency_key in self.keys:
            booking = self.bookings[self.keys[request.idempotency_key]]
            return pb.CreateBookingResponse(booking=booking, replayed=True)
        booking = self.add_booking(request.event_id, request.user_id, request.ticket_count)
        self.keys[request.idempotency_key] = booking.id
        return pb.CreateBookingResponse(booking=booking)

    def GetBooking(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("GetBooking", request, context)
        return self._found(request, context)

    def CancelBooking(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("CancelBooking", request, context)
        booking = self._found(request, context)
        booking.status, booking.reason = pb.BOOKING_STATUS_CANCELLED, request.reason
        return booking

    def ListBookings(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("ListBookings", request, context)
        mine = [b for b in self.bookings.values() if b.user_id == request.user_id]
        if not request.cursor.isascii() or not (request.cursor or "0").isdigit():
            wrong = [errors.FieldError("cursor", "is not one of ours")]
            self._refuse(context, errors.Invalid("validation_failed", "See.", errors=wrong))
        start = int(request.cursor or 0)
        end = start + request.page_size
        return pb.ListBookingsResponse(
            bookings=mine[start:end], next_cursor=str(end) if end < len(mine) else ""
        )

    def PutSale(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("PutSale", request, context)
        sale = self.sales.setdefault(request.event_id, pb.Sale(event_id=request.event_id))
        if request.version > sale.version:
            sale.version = request.version
            sale.remaining += request.terms.capacity - sale.terms.capacity
            sale.terms.CopyFrom(request.terms)
        return sale

    def GetAvailability(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("GetAvailability", request, context)
        known = {i: self.sales[i].remaining for i in request.event_ids if i in self.sales}
        return pb.GetAvailabilityResponse(remaining=known)

    def CloseSale(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("CloseSale", request, context)
        if request.event_id not in self.sales:
            self._refuse(context, errors.NotFound("event_not_found", "No such sale."))
        sale = self.sales[request.event_id]
        if request.version > sale.version:
            sale.version, sale.closed = request.version, True
        return sale

    def ConfirmBooking(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "payment's alone")

    def BatchConfirmBookings(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "payment's alone")

    def ExtendHold(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "payment's alone")

    def RecordRefund(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "payment's alone")

    def ListTickets(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._arrive("ListTickets", request, context)
        found = self._found(
            pb.GetBookingRequest(id=request.booking_id, user_id=request.user_id), context
        )
        if found.status == pb.BOOKING_STATUS_PENDING:
            self._refuse(context, errors.Conflict("tickets_not_issued", "Not confirmed yet."))
        void = found.status == pb.BOOKING_STATUS_CANCELLED
        last = min(request.after + (request.page_size or 20), found.ticket_count)
        return pb.ListTicketsResponse(
            tickets=[
                pb.Ticket(
                    id=f"{found.id[:-4]}{number:04d}",
                    booking_id=found.id,
                    number=number,
                    code="" if void else f"code-of-{number}",
                    status=pb.TICKET_STATUS_VOID if void else pb.TICKET_STATUS_VALID,
                )
                for number in range(request.after + 1, last + 1)
            ],
            next_after=last if last < found.ticket_count else 0,
        )

    def add_booking(self, event_id: str, user_id: str, ticket_count: int) -> pb.Booking:
        number = len(self.bookings) + 1
        created = Timestamp(seconds=1_900_000_000 + number)
        booking = pb.Booking(
            id=f"01890000-0000-7000-8000-{number:012d}",
            event_id=event_id,
            user_id=user_id,
            ticket_count=ticket_count,
            amount=pb.Money(amount_minor=1500 * ticket_count, currency="EUR"),
            status=pb.BOOKING_STATUS_PENDING,
            payment_status=pb.PAYMENT_STATUS_PENDING,
            hold_expires_at=Timestamp(seconds=created.seconds + 600),
            created_at=created,
            updated_at=created,
        )
        self.bookings[booking.id] = booking
        return booking

    def _arrive(self, method: str, request: Any, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.calls.append(Call(method, request, metadata, context.time_remaining(), context.peer()))
        time.sleep(self.delay_s)
        if metadata[rpc.CREDENTIAL_KEY] != CREDENTIAL:
            self._refuse(context, errors.Unauthenticated("unknown_caller", "Who are you?"))
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, errors.Refusal):
                self._refuse(context, failure)
            context.abort(failure, "as told by the test")

    def _found(self, request: Any, context: Any) -> pb.Booking:
        booking = self.bookings.get(request.id)
        if booking is None or request.user_id not in {"", booking.user_id}:
            self._refuse(context, errors.NotFound("booking_not_found", "No such booking."))
        assert booking is not None
        return booking

    def _refuse(self, context: Any, refusal: errors.Refusal) -> None:
        context.abort_with_status(rpc_status.to_status(rpc.to_status(refusal)))


@dataclass
class Running:
    """A fake booking service that listens on `endpoint`."""

    service: FakeBooking
    endpoint: str
    stop: Callable[[], None]


def _stopping(server: grpc.Server) -> Callable[[], None]:
    def stop() -> None:
        server.stop(None).wait()

    return stop


@contextmanager
def running_booking() -> Iterator[Running]:
    """Run a FakeBooking on a loopback port of its own."""
    service = FakeBooking()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    add_BookingServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Running(service, f"127.0.0.1:{port}", _stopping(server))
    finally:
        server.stop(None).wait()
