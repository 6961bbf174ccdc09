"""Reads JSON files that may be damaged; errors name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.errors import BundleRejected

MAX_JSON_BYTES = 512 * 1024 * 1024


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises BundleRejected."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BundleRejected(f"{path} is larger than {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleRejected(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BundleRejected(f"{path} contains a {type(content).__name__}, not an object")
    return content
