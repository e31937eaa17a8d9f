"""What is shown of a dead letter, whoever put it there."""

import json
from collections.abc import Mapping

import pika
import pytest

from payment.dead_letters import TEXT_LIMIT_CHARS, DeadLetter, full_text, line
from payment.models import BODY_LIMIT_BYTES
from ticketra import messages

NAME = "0193a5d0-0000-7000-8000-000000000001"  # made at 2024-12-08T10:28:12Z
BODY = b'{"booking_id":"b-1","request_id":"r-1"}'


def letter(
    body: bytes = BODY,
    message_id: str | None = "m-1",
    headers: Mapping[str, object] = {},
) -> DeadLetter:
    given = {
        messages.DEAD_LETTER_ID_HEADER: NAME,
        messages.QUEUE_HEADER: messages.CHARGE_QUEUE,
        messages.ATTEMPT_HEADER: 10,
        messages.REASON_HEADER: "UnexpectedAnswer: why",
        **headers,
    }
    kept = {name: value for name, value in given.items() if value is not None}
    return DeadLetter(pika.BasicProperties(message_id=message_id, headers=kept), body)


def without_id(
    body: bytes = BODY, message_id: str | None = "m-1", queue: str = messages.CHARGE_QUEUE
) -> DeadLetter:
    headers = {messages.DEAD_LETTER_ID_HEADER: None, messages.QUEUE_HEADER: queue}
    return letter(body, message_id, headers)


def test_a_line_has_what_an_operator_looks_for() -> None:
    assert line(letter()) == (
        f"{NAME}  2024-12-08T10:28:12Z  from payment.booking-created  attempts 10"
        "  message m-1  request r-1  UnexpectedAnswer: why"
    )


def test_what_is_not_known_is_a_dash() -> None:
    unknown = DeadLetter(pika.BasicProperties(), b"\xff")
    assert line(unknown) == f"{unknown.name}  -  from -  attempts -  message -  request -  -"
    assert unknown.queue is None


@pytest.mark.parametrize("given", ["", "all", "a b", "x" * 65, "\x1b[2J", 7, None])
def test_a_letter_without_a_usable_id_has_a_name_made_of_its_content(given: object) -> None:
    names = {letter(headers={messages.DEAD_LETTER_ID_HEADER: given}).name for _ in range(2)}
    assert names == {without_id().name}
    assert names.pop().startswith("sha256-")


def test_another_content_has_another_name() -> None:
    letters = (
        without_id(),
        without_id(body=b"{}"),
        without_id(message_id="m-2"),
        without_id(message_id=None),
        without_id(queue=messages.REFUND_QUEUE),
    )
    assert len({one.name for one in letters}) == len(letters)


@pytest.mark.parametrize(
    "name",
    ["not-a-uuid", "00000000-0000-4000-8000-000000000001", f"{'f' * 8}-ffff-7fff-bfff-{'f' * 12}"],
)
def test_an_id_that_tells_no_time_is_still_a_name(name: str) -> None:
    assert line(letter(headers={messages.DEAD_LETTER_ID_HEADER: name})).startswith(f"{name}  -  ")


@pytest.mark.parametrize("queue", [None, "payment.elsewhere", messages.DEAD_LETTER_QUEUE, 5])
def test_only_a_work_queue_counts_as_where_it_came_from(queue: object) -> None:
    assert letter(headers={messages.QUEUE_HEADER: queue}).queue is None


def test_no_text_of_others_steers_the_terminal_or_fills_it() -> None:
    shown = full_text(letter(headers={"reason": "\x1b[2J\n", messages.REASON_HEADER: "x" * 999}))
    assert "\x1b" not in shown
    assert "reason: ?[2J?" in shown
    assert f"{'x' * TEXT_LIMIT_CHARS}…" in shown
    assert "x" * (TEXT_LIMIT_CHARS + 1) not in shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (BODY, json.dumps(json.loads(BODY), indent=2)),
        (b"not json", "not json"),
        (b"two\nlines", "two\nlines"),
        (b"\x1b[2J", "1b 5b 32 4a"),
        (b"\xff\x00" * 20, ("ff 00 " * 16)[:-1] + "\n" + ("ff 00 " * 4)[:-1]),
        (b"[" * 60_000, "[" * 60_000),
        (b'{"a":"\\u001b"}', '{\n  "a": "\\u001b"\n}'),
        (b"", ""),
    ],
    ids=["json", "text", "lines", "control", "bytes", "deep", "escaped", "empty"],
)
def test_a_body_is_shown_as_what_it_is(body: bytes, shown: str) -> None:
    assert full_text(letter(body)).partition("\n\n")[2] == f"{shown}\n"


def test_of_a_huge_body_the_beginning_is_shown() -> None:
    shown = full_text(letter(b"x" * (BODY_LIMIT_BYTES + 1)))
    assert f"({BODY_LIMIT_BYTES + 1} bytes, of which these are the first)" in shown
    assert len(shown) < BODY_LIMIT_BYTES + 2_000


def test_headers_too_deep_to_be_shown_are_not() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    odd = letter(headers={"odd": deep, messages.QUEUE_HEADER: deep, messages.REASON_HEADER: deep})
    assert line(odd).endswith("  ?")
    assert "odd: ?\n" in full_text(odd)
    assert letter(headers={**odd.headers, messages.DEAD_LETTER_ID_HEADER: None}).name


def test_headers_whose_names_are_no_text_are_shown_too() -> None:
    odd = DeadLetter(pika.BasicProperties(headers={b"\xff": 1, "a": b"\xff"}), b"")
    assert "a: b'\\xff'\nb'\\xff': 1\n" in full_text(odd)
