"""A camera reads from both pictures what went into them."""

import pytest

from gateway import qr
from tests.unit.gateway.pictures import text_in_png, text_in_svg

# As long as a real one: header, claims and signature.
CODE = ".".join(["eyJhbGciOiJFZERTQSJ9" * 4, "eyJqdGkiOiIwMWEyMDJkZiJ9" * 8, "c2lnbmF0dXJl" * 7])


@pytest.mark.parametrize("code", [CODE, "x"])
def test_a_camera_reads_the_code_from_both_pictures(code: str) -> None:
    shown = qr.of(code)

    assert text_in_png(shown.png()) == code
    assert text_in_svg(shown.svg()) == code


def test_dirt_on_the_picture_does_not_matter() -> None:
    shown = qr.of(CODE)
    size = len(shown.symbol.matrix)
    for row in range(size // 2, size // 2 + 6):
        for column in range(size // 2, size // 2 + 6):
            shown.symbol.matrix[row][column] = 0

    assert text_in_png(shown.png()) == CODE


def test_the_same_code_looks_the_same() -> None:
    assert qr.of(CODE).png() == qr.of(CODE).png()
    assert qr.of(CODE).png() != qr.of(CODE + "x").png()
