"""gRPC between services: refusals as rich status codes, and the caller's credential.

A refusal travels as a status code with a google.rpc.ErrorInfo (reason = the code in upper case)
and, where waiting helps, a google.rpc.RetryInfo. Source: https://google.aip.dev/193.
"""

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from ticketra import errors

ERROR_DOMAIN = "ticketra"
CALLER_KEY = "x-ticketra-caller"
CREDENTIAL_KEY = "x-ticketra-caller-credential"
REQUEST_ID_KEY = "x-request-id"

_STATUS_OF: dict[type[errors.Refusal], grpc.StatusCode] = {
    errors.Malformed: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Busy: grpc.StatusCode.ABORTED,
    errors.TooManyRequests: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}
# Malformed comes first above, so that INVALID_ARGUMENT reads back as Invalid.
_REFUSAL_OF: dict[grpc.StatusCode, type[errors.Refusal]] = {
    status: refusal for refusal, status in _STATUS_OF.items()
}


def to_status(refusal: errors.Refusal) -> status_pb2.Status:
    """Return the gRPC status that carries `refusal` with its details."""
    status_code = next(
        (_STATUS_OF[kind] for kind in type(refusal).__mro__ if kind in _STATUS_OF),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    metadata = {} if refusal.available is None else {"available": str(refusal.available)}
    info = error_details_pb2.ErrorInfo(
        reason=refusal.code.upper(), domain=ERROR_DOMAIN, metadata=metadata
    )
    details = [_packed(info)]
    if refusal.retry_after_s is not None:
        delay = duration_pb2.Duration(seconds=refusal.retry_after_s)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    if refusal.errors:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=e.field, description=e.message)
            for e in refusal.errors
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    number: int = status_code.value[0]
    return status_pb2.Status(code=number, message=refusal.detail, details=details)


def to_refusal(error: grpc.RpcError) -> errors.Refusal | None:
    """Return the refusal that `error` carries, or None if it is not one of Ticketra's own."""
    status = rpc_status.from_call(error)
    if status is None:
        return None
    info, retry_after_s, violations = None, None, []
    for detail in status.details:
        if (found := _unpacked(detail, error_details_pb2.ErrorInfo)) is not None:
            info = found
        elif (retry := _unpacked(detail, error_details_pb2.RetryInfo)) is not None:
            retry_after_s = int(retry.retry_delay.seconds)
        elif (bad := _unpacked(detail, error_details_pb2.BadRequest)) is not None:
            violations = [errors.FieldError(v.field, v.description) for v in bad.field_violations]
    if info is None or info.domain != ERROR_DOMAIN:
        return None
    kind = _REFUSAL_OF.get(error.code(), errors.Conflict)
    available = info.metadata.get("available")
    return kind(
        info.reason.lower(),
        status.message,
        retry_after_s=retry_after_s,
        available=None if available is None else int(available),
        errors=violations,
    )


def caller_metadata(
    caller: str, credential: str, request_id: str | None = None
) -> tuple[tuple[str, str], ...]:
    """Return the metadata that names the calling service and proves it."""
    metadata = ((CALLER_KEY, caller), (CREDENTIAL_KEY, credential))
    return metadata if request_id is None else (*metadata, (REQUEST_ID_KEY, request_id))


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _unpacked(packed: any_pb2.Any, kind: Any) -> Any:
    message = kind()
    return message if packed.Unpack(message) else None
