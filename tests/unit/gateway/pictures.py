"""Reads QR codes from pictures, as a door's camera does."""

import re
import struct
import zlib

import zxingcpp

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STROKE_STEP = re.compile(r"([MmhH])(-?[\d.]+)(?: (-?[\d.]+))?")


def text_in_png(picture: bytes) -> str:
    """Return what the QR code in a PNG file of two colours says."""
    assert picture.startswith(_PNG_SIGNATURE)
    chunks = dict(_chunks(picture))
    width, height, depth, colours = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colours) == (1, 0)  # one bit of grey for each pixel
    lines = _lines(zlib.decompress(chunks[b"IDAT"]), (width + 7) // 8)
    assert len(lines) == height
    pixels = bytes(
        255 * (line[column // 8] >> (7 - column % 8) & 1)
        for line in lines
        for column in range(width)
    )
    return _read(pixels, width, height)


def text_in_svg(picture: bytes) -> str:
    """Return what the QR code in an SVG document says, whose dark modules are one stroked path."""
    text = picture.decode()
    [width] = re.findall(r'width="(\d+)"', text)
    [scale] = re.findall(r"scale\((\d+)\)", text)
    [path] = re.findall(r'stroke="#000" d="([^"]+)"', text)
    modules = int(width) // int(scale)
    pixels = bytearray(b"\xff" * (int(width) ** 2))
    x, y = 0.0, 0.0
    for step, first, second in _STROKE_STEP.findall(path):
        if step == "h":
            for column in range(int(x), int(x + float(first))):
                _fill(pixels, int(scale), modules, column, int(y))
            x += float(first)
        else:
            assert step in "Mm"
            x, y = float(first) + x * (step == "m"), float(second) + y * (step == "m")
    return _read(bytes(pixels), int(width), int(width))


def _fill(pixels: bytearray, scale: int, modules: int, column: int, row: int) -> None:
    width = modules * scale
    for line in range(row * scale, (row + 1) * scale):
        start = line * width + column * scale
        pixels[start : start + scale] = bytes(scale)


def _chunks(picture: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(_PNG_SIGNATURE)
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        found.append((picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]))
        at += length + 12
    return found


def _lines(filtered: bytes, width: int) -> list[bytes]:
    """Return the lines of `width` bytes, each of them stored as it is or as the one above it."""
    lines = [bytes(width)]
    for at in range(0, len(filtered), width + 1):
        kind, line = filtered[at], filtered[at + 1 : at + 1 + width]
        assert kind in {0, 2}
        above = lines[-1] if kind == 2 else bytes(width)
        lines.append(bytes((a + b) % 256 for a, b in zip(line, above, strict=True)))
    return lines[1:]


def _read(pixels: bytes, width: int, height: int) -> str:
    [found] = zxingcpp.read_barcodes(memoryview(pixels).cast("B", (height, width)))
    assert found.format == zxingcpp.BarcodeFormat.QRCode
    return found.text
