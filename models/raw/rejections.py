"""Rejected rows of a table: one reason each, and an example value per reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.raw.encodings import escaped

Mask = npt.NDArray[np.bool_]


@dataclass
class Rejections:
    """The rejected rows: the first reason for each, and an example value for each reason."""

    num_rows: int
    names: list[str] = field(default_factory=list)
    """Reasons; reason i has the code i + 1, a good row the code 0."""
    examples: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    """Values of some rows per reason, where one example does not show what is wrong with all."""

    def __post_init__(self) -> None:
        self.codes: npt.NDArray[np.int16] = np.zeros(self.num_rows, np.int16)

    def add(self, bad: pa.Array | Mask, reason: str, *, values: pa.Array | None = None, num_samples: int = 0) -> None:
        """Reject the rows of the boolean array `bad`; a row that is already rejected keeps its first reason."""
        new = mask_of(bad) & (self.codes == 0)
        if not new.any():
            return
        self.names.append(reason)
        self.codes[new] = len(self.names)
        if values is not None:
            first = int(new.argmax())
            if values.is_valid()[first].as_py():
                self.examples[reason] = shown(values[first])
            rows = np.flatnonzero(new)
            chosen = rows[np.linspace(0, len(rows) - 1, min(num_samples, len(rows)), dtype=np.int64)]
            self.samples[reason] = [shown(values[int(row)]) for row in chosen]

    def reasons(self) -> pa.Array:
        """The reasons of the rejected rows, in row order."""
        named = pa.array(self.names, pa.string())
        return named.take(pa.array(self.codes[self.codes > 0] - 1))


def shown(value: pa.Scalar) -> str:
    """A value as a message shows it."""
    # Python's datetime ends with the year 9999.
    plain = value.cast(pa.string()) if pa.types.is_timestamp(value.type) else value
    example = plain.as_py()
    return escaped(example) if isinstance(example, bytes) else str(example)


def mask_of(flags: pa.Array | Mask) -> Mask:
    """Flags as a NumPy array, False for null."""
    if isinstance(flags, np.ndarray):
        return flags
    result: Mask = pc.fill_null(flags, False).to_numpy(zero_copy_only=False).astype(bool)
    return result
