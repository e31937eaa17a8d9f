"""Writes the API's document into the gateway's package: `make openapi`."""

import json
from pathlib import Path

from docs.openapi.document import build

TARGET = Path(__file__).resolve().parents[2] / "functions" / "gateway" / "static" / "openapi.json"


def as_text() -> str:
    """Return the document that the code describes, as it is kept."""
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(as_text(), encoding="utf-8")
