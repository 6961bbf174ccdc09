"""Assigns products to splits, and checks that every class can be learned and every split evaluated."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.errors import DataRejected
from models.image.schema import NUM_SHARDS, SPLITS

MAX_CLASS_NAME = 200
"""Characters of a class name; longer ones are descriptions."""
MAX_LISTED = 5

_LIST = re.compile(r"^\[.*['\",].*\]$|^\{.*:.*\}$")
"""A list or object as text, as pandas writes it to CSV."""

Flags = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]


def assign(kept: pd.DataFrame, heads: Sequence[str], *, val_fraction: float, test_fraction: float) -> pd.DataFrame:
    """Assign shards, and splits that the input does not have, by a hash of the product.

    In small sets the hash may leave a class without training images or a split empty: then the fewest products change
    their split, in the order of their hashes. A split of the input never changes.
    """
    own = [
        item if isinstance(item, str) else digest for item, digest in zip(kept["item_id"], kept["digest"], strict=True)
    ]
    hashes = np.frombuffer(b"".join(hashlib.sha256(key.encode()).digest()[:16] for key in own), ">u8").reshape(-1, 2)
    position = hashes[:, 1].astype(np.float64) / 2.0**64
    given = kept["split"].to_numpy(dtype=object)
    has_test, has_val = (given == "test").any(), (given == "val").any()
    val_until = 0.0 if has_val else val_fraction
    test_from = 1.0 if has_test else 1.0 - test_fraction
    assigned = np.where(position < val_until, "val", np.where(position >= test_from, "test", "train"))
    is_given = (given == "test") | (given == "val")
    split: Objects = np.where(is_given, given, assigned).astype(object)
    products = _Products(kept, heads, own=own, position=position, is_given=is_given, split=split)
    products.fill_classes()
    for name, fraction, has in (("val", val_fraction, has_val), ("test", test_fraction, has_test)):
        if fraction and not has:
            products.fill_split(name, fraction)
    return kept.assign(split=split, shard=(hashes[:, 0] % NUM_SHARDS).astype(np.int64))


class _Products:
    """The labelled products whose split is not given, and moves of whole products between splits."""

    def __init__(
        self,
        kept: pd.DataFrame,
        heads: Sequence[str],
        *,
        own: Sequence[str],
        position: npt.NDArray[np.float64],
        is_given: Flags,
        split: Objects,
    ) -> None:
        labels = kept[list(heads)]
        self.is_labelled = labels.notna().any(axis=1).to_numpy()
        self.position, self.is_given, self.split = position, is_given, split
        rows = labels.astype(object).where(labels.notna(), None).to_numpy().tolist()
        self.classes = [[pair for pair in zip(heads, row, strict=True) if pair[1] is not None] for row in rows]
        """(head, class) of each image."""
        self.own = own
        self.rows: dict[str, list[int]] = defaultdict(list)
        """Product -> its images whose split is not given."""
        for row in np.flatnonzero(~is_given).tolist():
            self.rows[own[row]].append(row)
        trained = np.flatnonzero(split == "train").tolist()
        self.num_trained = Counter(name for row in trained for name in self.classes[row])

    def fill_classes(self) -> None:
        """Move the first product of each class without training images to the training split."""
        lacking = {name for of in self.classes for name in of} - self.num_trained.keys()
        rows: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row in np.flatnonzero(~self.is_given).tolist() if lacking else ():
            for name in lacking.intersection(self.classes[row]):
                rows[name].append(row)
        for name in sorted(rows):
            if not self.num_trained[name]:  # it did not come with another class
                self._move(self._ordered(rows[name])[0], "train")

    def fill_split(self, name: str, fraction: float) -> None:
        """Move training products to an empty split: its fraction of them, as long as each class keeps one."""
        if (self.is_labelled & (self.split == name)).any():
            return
        rows = np.flatnonzero(self.is_labelled & ~self.is_given)
        ordered = self._ordered([row for row in rows.tolist() if self.split[row] == "train"])
        wanted = max(1, round(fraction * len({self.own[row] for row in rows.tolist()})))
        for product in ordered if name == "val" else ordered[::-1]:
            if wanted and self._can_leave(product):
                self._move(product, name)
                wanted -= 1

    def _ordered(self, rows: Sequence[int]) -> list[str]:
        """The products of the rows, in the order of their hashes."""
        positions = {self.own[row]: (self.position[row], self.own[row]) for row in rows}
        return sorted(positions, key=positions.__getitem__)

    def _move(self, product: str, name: str) -> None:
        for row in self.rows[product]:
            change = int(name == "train") - int(self.split[row] == "train")
            for of in self.classes[row]:
                self.num_trained[of] += change
            self.split[row] = name

    def _can_leave(self, product: str) -> bool:
        """Whether every class of a product has training images of other products."""
        leaving = Counter(name for row in self.rows[product] for name in self.classes[row])
        return all(count < self.num_trained[name] for name, count in leaving.items())


def check_classes(kept: pd.DataFrame, classes: Mapping[str, list[str]]) -> None:
    """Raise DataRejected for labels that are no classes, classes without training images and empty splits."""
    for head, names in classes.items():
        _check_names(head, names)
    for head, names in classes.items():
        _check_trained(kept, head, names)
    labelled = kept[kept[list(classes)].notna().any(axis=1)]
    sizes = {split: int((labelled["split"] == split).sum()) for split in SPLITS}
    empty = [split for split, count in sizes.items() if not count]
    if empty:
        flags = " and ".join(f"--{split}-fraction" for split in empty)
        listed = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
        products = labelled["item_id"].nunique()
        of = f" of {products:,} products, whose images stay together" if products else ""
        raise DataRejected(
            f"the {' and '.join(empty)} split{' has' if len(empty) == 1 else 's have'} no images ({listed}){of}; each "
            f"class needs one in train; give more images, or a larger {flags}"
        )


def class_notes(kept: pd.DataFrame, classes: Mapping[str, list[str]]) -> list[str]:
    """What the card and the log say about classes: names that differ only in case, classes that are not evaluated."""
    notes = []
    for head, names in classes.items():
        counts = kept[head].value_counts()
        for alike in _alike(names):
            listed = ", ".join(f"{name!r} ({counts[name]:,})" for name in alike)
            notes.append(f"classes of {head!r} that differ only in case: {listed}; write them alike if they are one")
        tested = set(kept.loc[kept["split"] == "test", head].dropna())
        untested = [name for name in names if name not in tested]
        if untested:
            notes.append(f"classes of {head!r} without a test image: {len(untested):,} ({_listed(untested)})")
    return notes


def _check_names(head: str, names: Sequence[str]) -> None:
    if len(names) < 2:
        found = f" ({names[0]!r})" if names else ""
        raise DataRejected(
            f"the label {head!r} has {len(names)} class{'' if len(names) == 1 else 'es'}{found}; classification needs "
            "at least 2"
        )
    if len(names) > np.iinfo(np.int16).max:
        raise DataRejected(f"the label {head!r} has {len(names):,} classes; is it an id? Leave it out of --labels")
    long = next((name for name in names if len(name) > MAX_CLASS_NAME), None)
    if long is not None:
        raise DataRejected(
            f"the label {head!r} has a class name of {len(long):,} characters ({long[:60]!r}...), at most "
            f"{MAX_CLASS_NAME} are allowed; is it a description? Leave it out of --labels, or shorten it"
        )
    listed = next((name for name in names if _LIST.match(name)), None)
    if listed is not None:
        raise DataRejected(
            f"the label {head!r} holds lists, e.g. {listed[:60]!r}, but a label is one value per image; write a column "
            "for each value and name it in --labels"
        )


def _check_trained(kept: pd.DataFrame, head: str, names: Sequence[str]) -> None:
    trained = set(kept.loc[kept["split"] == "train", head].dropna())
    missing = [name for name in names if name not in trained]
    if not missing:
        return
    alike = {name.lower(): name for name in trained}
    shown = []
    for name in missing[:MAX_LISTED]:
        splits = kept.loc[kept[head] == name, "split"].tolist()
        where = ", ".join(f"{splits.count(split):,} in {split}" for split in SPLITS if split in splits)
        other = alike.get(name.lower())
        shown.append(f"{name!r} ({where}{'' if other is None else f'; train has {other!r}'})")
    more = "" if len(missing) <= MAX_LISTED else f" and {len(missing) - MAX_LISTED:,} more"
    raise DataRejected(
        f"{len(missing):,} of {len(names):,} classes of the label {head!r} have no training image, so they cannot be "
        f"learned: {', '.join(shown)}{more}. Add training images, or take these images out of the input"
    )


def _alike(names: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _listed(names: Sequence[str]) -> str:
    more = "" if len(names) <= MAX_LISTED else f" and {len(names) - MAX_LISTED:,} more"
    return ", ".join(repr(name) for name in names[:MAX_LISTED]) + more
