"""A ticket's code as a QR code (ISO/IEC 18004), to be read from paper and from a screen."""

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import segno

ERROR_CORRECTION = "m"  # a door reads it with 15 % of the symbol dirty or folded away
QUIET_ZONE_MODULES = 4  # the standard's
SVG_SCALE = 4
PNG_SCALE_PX = 6


@dataclass(frozen=True, slots=True)
class QrCode:
    """A QR code; both pictures have a light background, so that dark pages can show them."""

    symbol: "segno.QRCode"

    def svg(self) -> bytes:
        """Return it as an SVG document."""
        return self._saved("svg", SVG_SCALE)

    def png(self) -> bytes:
        """Return it as a PNG file of two colours."""
        return self._saved("png", PNG_SCALE_PX)

    def _saved(self, kind: str, scale: int) -> bytes:
        out = BytesIO()
        self.symbol.save(
            out, kind=kind, scale=scale, border=QUIET_ZONE_MODULES, dark="#000", light="#fff"
        )
        return out.getvalue()


def of(code: str) -> QrCode:
    """Return the QR code that reads as `code`."""
    import segno  # noqa: PLC0415 - most cold starts are not about tickets

    return QrCode(segno.make_qr(code, error=ERROR_CORRECTION))
