"""The server under grpcio's own clients, with and without asyncio."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from booking.http2.server import Server
from tests.unit.booking.http2.conftest import Failures, Start
from tests.unit.booking.http2.service import UNREADABLE, Echo, EchoServer, Status, eventually

Channel = grpc.aio.Channel


@pytest.fixture
async def channel(server: EchoServer, opened: AsyncExitStack) -> Channel:
    return await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))


def unary(channel: Channel, method: str = "Unary") -> Any:
    return channel.unary_unary(f"/test.Echo/{method}")


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return failure.value


async def test_each_kind_of_method_answers_a_client_on_asyncio(
    channel: Channel, echo: Echo
) -> None:
    assert await unary(channel)(b"hello") == b"hello"
    assert await unary(channel)(b"") == b""
    split: Any = channel.unary_stream("/test.Echo/Split")
    assert [part async for part in split(b"abc")] == [b"a", b"b", b"c"]
    assert [part async for part in split(b"")] == []
    write: Any = channel.unary_stream("/test.Echo/Write")
    assert [part async for part in write(b"abc")] == [b"a", b"b", b"c"]
    join: Any = channel.stream_unary("/test.Echo/Join")
    assert await join(iter([b"a", b"", b"bc"])) == b"abc"
    chat: Any = channel.stream_stream("/test.Echo/Chat")
    assert [part async for part in chat(iter([b"a", b"b"]))] == [b"A", b"B"]


async def test_each_kind_of_method_answers_a_client_of_threads(server: EchoServer) -> None:
    def talk() -> list[Any]:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            untyped: Any = channel
            return [
                untyped.unary_unary("/test.Echo/Unary")(b"hello"),
                list(untyped.unary_stream("/test.Echo/Split")(b"ab")),
                untyped.stream_unary("/test.Echo/Join")(iter([b"a", b"b"])),
                list(untyped.stream_stream("/test.Echo/Chat")(iter([b"a", b"b"]))),
            ]

    assert await asyncio.to_thread(talk) == [b"hello", [b"a", b"b"], b"ab", [b"A", b"B"]]


async def test_a_chat_answers_each_message_before_the_next_comes(channel: Channel) -> None:
    chat: Any = channel.stream_stream("/test.Echo/Chat")
    call = chat()
    for word in (b"a", b"b"):
        await call.write(word)
        assert await call.read() == word.upper()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_many_calls_at_once_each_get_their_own_answer(start: Start) -> None:
    server = await start(calls_limit=3_000)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        requests = [b"%d" % i for i in range(2_000)]
        assert await asyncio.gather(*map(unary(channel), requests)) == requests


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_384, 70_000, 1_000_000])
async def test_large_messages_pass_both_ways(start: Start, size: int) -> None:
    server = await start(message_limit_bytes=1_000_000)
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert await unary(channel)(data) == data
        join: Any = channel.stream_unary("/test.Echo/Join")
        assert await join(iter([data, data])) == data * 2


async def test_metadata_reaches_the_method_unchanged(channel: Channel, echo: Echo) -> None:
    sent = (
        ("x-caller", "gateway"),
        ("x-twice", "one"),
        ("x-twice", "two"),
        ("x-data-bin", bytes(range(256))),
        ("x-none-bin", b""),
        ("x-text", "a, b = c"),
    )
    await unary(channel)(b"", metadata=sent)
    assert set(sent) <= set(echo.metadata)
    assert [value for key, value in echo.metadata if key == "x-twice"] == ["one", "two"]
    assert not {"te", "content-type", "user-agent", ":path"} & {key for key, _ in echo.metadata}


async def test_the_method_learns_the_deadline(channel: Channel, echo: Echo) -> None:
    await unary(channel)(b"", timeout=100)
    assert echo.remaining_s is not None
    assert 50 < echo.remaining_s <= 102  # the client rounds it up


async def test_a_call_may_have_no_deadline(channel: Channel, echo: Echo) -> None:
    echo.remaining_s = 1
    await unary(channel)(b"")
    assert echo.remaining_s is None


async def test_a_deadline_ends_the_call_and_cancels_the_method(
    channel: Channel, server: EchoServer, echo: Echo
) -> None:
    error = await refusal(unary(channel, "Slow")(b"", timeout=0.05))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: echo.cancelled == 1)
    echo.clean_up.set()
    await server.idle_calls()


async def test_a_cancelled_call_cancels_the_method(
    channel: Channel, server: EchoServer, echo: Echo
) -> None:
    call = unary(channel, "Slow")(b"")
    await eventually(lambda: echo.running)
    call.cancel()
    await eventually(lambda: echo.cancelled)
    echo.clean_up.set()
    await server.idle_calls()
    assert echo.cleaned == 1


async def test_a_closed_channel_cancels_the_method(server: EchoServer, echo: Echo) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        calls = [unary(channel, "Slow")(b"") for _ in range(3)]
        await eventually(lambda: echo.running == 3)
    await eventually(lambda: echo.cancelled == 3)
    del calls
    echo.clean_up.set()
    await server.idle_calls()


async def test_a_cancelled_stream_cleans_up_at_once(
    channel: Channel, server: EchoServer, echo: Echo
) -> None:
    call = cast("Any", channel.unary_stream("/test.Echo/Flood"))(b"x" * 900)
    assert await call.read() == b"x" * 900
    call.cancel()
    await server.idle_calls()


async def test_a_long_stream_of_answers_arrives_whole(channel: Channel) -> None:
    call = cast("Any", channel.unary_stream("/test.Echo/Flood"))(b"x" * 900)
    for _ in range(3_000):
        assert await call.read() == b"x" * 900
    call.cancel()


async def test_a_status_arrives_with_its_details(channel: Channel, echo: Echo) -> None:
    message = 'a % of "ünïcode",\n\ttabs & \x7f'
    wanted = status_pb2.Status(code=9, message=message)
    wanted.details.add().Pack(error_details_pb2.ErrorInfo(reason="sold_out", domain="test"))
    echo.status = rpc_status.to_status(wanted)
    error = await refusal(unary(channel, "Abort")(b""))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == message
    assert dict(error.trailing_metadata())["grpc-status-details-bin"] == wanted.SerializeToString()


async def test_metadata_of_a_refusal_may_be_a_list(channel: Channel, echo: Echo) -> None:
    echo.status = (grpc.StatusCode.ABORTED, "again", [("x-why", "because"), ("x-bin", b"\0\xff")])
    error = await refusal(unary(channel, "AbortWith")(b""))
    assert error.code() is grpc.StatusCode.ABORTED
    assert dict(error.trailing_metadata()) == {"x-why": "because", "x-bin": b"\0\xff"}


async def test_a_status_that_cannot_be_sent_still_ends_the_call(
    channel: Channel, server: EchoServer, echo: Echo, failures: Failures
) -> None:
    echo.status = (grpc.StatusCode.ABORTED, "again", [["not", {}]])
    error = await refusal(unary(channel, "AbortWith")(b"", timeout=5))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert [failures.pop()] == ["a call failed"]
    await server.idle_calls()


async def test_a_method_that_breaks_hides_why(channel: Channel, failures: Failures) -> None:
    error = await refusal(unary(channel, "Break")(b"secret"))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "secret" not in str(error.details())
    assert [failures.pop()] == ["a call failed"]


async def test_an_answer_of_a_wrong_type_is_a_failure(
    channel: Channel, echo: Echo, failures: Failures
) -> None:
    echo.answer = cast("Any", "text")
    error = await refusal(unary(channel, "Fixed")(b""))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert [failures.pop()] == ["a call failed"]


@pytest.mark.parametrize("path", ["/test.Echo/Nothing", "/test.Other/Unary", "/"])
async def test_an_unknown_method_is_unimplemented(channel: Channel, path: str) -> None:
    call: Any = channel.unary_unary(path)
    assert (await refusal(call(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_that_cannot_be_read_gets_the_status_for_it(channel: Channel) -> None:
    error = await refusal(unary(channel)(UNREADABLE))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "unreadable"
    join: Any = channel.stream_unary("/test.Echo/Join")
    error = await refusal(join(iter([b"a", UNREADABLE])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_read(
    channel: Channel, server: EchoServer, compression: grpc.Compression
) -> None:
    assert await unary(channel)(b"a" * 1_000, compression=compression) == b"a" * 1_000
    error = await refusal(unary(channel)(b"a" * 1_001, compression=compression))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stream_of_compressed_messages_may_be_larger_than_its_window(
    channel: Channel, server: EchoServer
) -> None:
    join: Any = channel.stream_unary("/test.Echo/Join", request_serializer=None)
    part = zlib.compress(b"seed") * 30  # not much smaller when it is compressed once more
    answer = await join(iter([part] * 200), compression=grpc.Compression.Gzip)
    assert answer == part * 200


async def test_a_message_above_the_limit_is_refused(channel: Channel) -> None:
    assert await unary(channel)(b"a" * 1_000) == b"a" * 1_000
    error = await refusal(unary(channel)(b"a" * 1_001))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    join: Any = channel.stream_unary("/test.Echo/Join")
    error = await refusal(join(iter([b"a", b"a" * 1_001])))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metadata_above_the_limit_is_refused(channel: Channel) -> None:
    assert await unary(channel)(b"", metadata=[("x", "y" * 1_000)]) == b""
    error = await refusal(unary(channel)(b"", metadata=[("x", "y" * 2_000)]))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await unary(channel)(b"again") == b"again"


async def test_a_call_above_the_limit_is_refused_until_a_method_has_returned(
    channel: Channel, server: EchoServer, echo: Echo
) -> None:
    slow = [unary(channel, "Slow")(b"") for _ in range(10)]
    await eventually(lambda: echo.running == 10)
    assert (await refusal(unary(channel)(b""))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # A cancelled call counts for as long as its method cleans up.
    slow[0].cancel()
    await eventually(lambda: echo.cancelled == 1)
    assert (await refusal(unary(channel)(b""))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    echo.clean_up.set()
    await eventually(lambda: echo.running == 9)
    assert await unary(channel)(b"free") == b"free"
    echo.proceed.set()
    assert await asyncio.gather(*slow[1:]) == [b""] * 9


async def test_a_connection_above_the_limit_is_closed(start: Start) -> None:
    server = await start(connections_limit=1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert await unary(channel)(b"first") == b"first"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(5):
            await reader.read()  # to its end
        writer.close()
        assert await unary(channel)(b"still there") == b"still there"


async def test_a_connection_that_was_quiet_goes_on(channel: Channel) -> None:
    assert await unary(channel)(b"one") == b"one"
    await asyncio.sleep(0.3)  # the watch of deadlines has passed several times
    assert await unary(channel)(b"two") == b"two"


@pytest.fixture
async def task_channel(health: HealthServicer, opened: AsyncExitStack) -> AsyncIterator[Channel]:
    """A server with what each booking task serves beside its own methods."""
    unreadable: Any = Status(grpc.StatusCode.INVALID_ARGUMENT, "unreadable")
    server = Server(
        message_limit_bytes=10_000,
        metadata_limit_bytes=2_000,
        connections_limit=10,
        calls_limit=10,
        unreadable=unreadable,
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection.aio.ReflectionServicer(["grpc.health.v1.Health"]), server
    )
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)
    assert not server._calls


@pytest.fixture
def health() -> Iterator[HealthServicer]:
    servicer = HealthServicer()
    yield servicer
    assert not servicer._server_watchers  # each watch has cleaned up


async def test_health_is_told_at_each_change(task_channel: Channel, health: HealthServicer) -> None:
    stub = health_pb2_grpc.HealthStub(task_channel)
    request = health_pb2.HealthCheckRequest(service="booking")
    watch = stub.Watch(request)
    statuses = health_pb2.HealthCheckResponse
    assert (await watch.read()).status == statuses.SERVICE_UNKNOWN
    for status in (statuses.SERVING, statuses.NOT_SERVING, statuses.SERVING):
        await health.set("booking", status)
        assert (await watch.read()).status == status
        assert (await stub.Check(request)).status == status
    watch.cancel()
    error = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="none")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    await eventually(lambda: not health._server_watchers)


async def test_reflection_lists_and_describes(task_channel: Channel) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="no.proto"),
    ]
    stub = reflection_pb2_grpc.ServerReflectionStub(task_channel)
    listed, described, missing = [
        answer async for answer in stub.ServerReflectionInfo(iter(requests))
    ]
    assert [s.name for s in listed.list_services_response.service] == ["grpc.health.v1.Health"]
    assert b"HealthCheckRequest" in described.file_descriptor_response.file_descriptor_proto[0]
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
