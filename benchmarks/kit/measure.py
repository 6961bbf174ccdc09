"""Shared parts of the benchmarks: flags, prepared data, and systems under test in processes of their own."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import jobs.prepare
from benchmarks.peers.protocol import MARK
from jobs.cli.context import Context, Store
from jobs.cli.environment import ENVIRONMENT
from models import FAMILIES
from models.bundle import config_from_dict

ROOT = Path(__file__).resolve().parents[2]
QUICK_EVENTS = 15_000
"""Number of events with --quick."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Answer = dict[str, Any]


class Worker:
    """A system under test in its own process; it computes only between a request and its answer."""

    def __init__(self, name: str, command: Sequence[str], *, threads: int) -> None:
        self.name = name
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            list(command), cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, request: Mapping[str, Any] | None = None) -> Answer:
        """Send a request and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request or {}) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Answer:
        """The next answer; raises RuntimeError if the process ends instead."""
        for answer in self.answers():
            return answer
        raise RuntimeError(f"{self.name} ended without an answer; its messages are above")

    def answers(self) -> Iterator[Answer]:
        """All answers until the process ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                yield json.loads(line.removeprefix(MARK))

    def close(self) -> None:
        """Close its stdin and wait for it to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def stop(self) -> None:
        """Terminate it."""
        self._process.terminate()
        self._process.wait()


def ready(starting: Iterable[Worker]) -> tuple[list[Worker], dict[str, Answer]]:
    """Workers and their first answers, started one by one, as some need gigabytes until they are ready."""
    workers, said = [], {}
    for worker in starting:
        said[worker.name] = worker.answer()
        workers.append(worker)
    return workers, said


def flags(doc: str | None, *, several: bool = False, synthetic: bool = False) -> argparse.ArgumentParser:
    """A parser with the common flags; `several` raw files, or none for a `synthetic` log."""
    parser = argparse.ArgumentParser(description=doc)
    if not synthetic:
        parser.add_argument("--data", nargs="+" if several else None, required=True, help="raw public file")
    parser.add_argument("--prepare", nargs="*", default=["split=leave-one-out"], help="name=value of PrepareConfig")
    parser.add_argument("--config", nargs="*", default=[], help="name=value of the family's Config")
    parser.add_argument("--threads", type=int, default=1, help="threads per system")
    parser.add_argument("--quick", action="store_true", help="smoke test in seconds on a part of the data")
    parser.add_argument("--peers", type=Path, help="directory filled by benchmarks.peers.make; unset skips peers")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="directory of the page")
    parser.add_argument("--suffix", default="", help="suffix of the page's name, for several runs on a day")
    parser.add_argument("--work", type=Path, help="parent of the temporary directory")
    return parser


def read(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the flags; exits with a message if the raw data is missing."""
    arguments = parser.parse_args()
    for raw in [arguments.data] if isinstance(arguments.data, str) else arguments.data:
        if not Path(raw).exists():
            print(f"skipped: {raw} does not exist; give the raw public file with --data", file=sys.stderr)
            sys.exit(0)
    return arguments


def use_environment() -> None:
    """Set the environment variables of the command line; must be called before Ray or MLflow is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs, with values parsed as JSON if possible, else as text."""
    found = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            found[name.replace("-", "_")] = json.loads(text)
        except json.JSONDecodeError:
            found[name.replace("-", "_")] = text
    return found


@contextmanager
def workspace(arguments: argparse.Namespace) -> Iterator[Path]:
    """A temporary directory."""
    with tempfile.TemporaryDirectory(prefix="shopkeeper-benchmark-", dir=arguments.work) as directory:
        yield Path(directory)


def prepared(
    raw: str,
    arguments: argparse.Namespace,
    work: Path,
    *,
    family_name: str = "recommender",
    more: Mapping[str, str] | None = None,
) -> Path:
    """The prepared data directory of raw data, created by `shopkeeper prepare`."""
    family = FAMILIES[family_name]
    source = _part(Path(raw), work) if arguments.quick and ".txt" in Path(raw).suffixes else Path(raw)
    config = config_from_dict(
        family.PrepareConfig, {"raw": str(source), **(more or {}), **overrides(arguments.prepare)}
    )
    store = Store(work / f"store-{label(raw)}")
    outcome = jobs.prepare.run(Context(store=store), family, jobs.prepare.Options(), config)
    return Path(outcome.details["data"])


def label(raw: str) -> str:
    """A short name of a raw file."""
    return Path(raw).name.split(".")[0]


def export(data: Path, out: Path) -> Path:
    """Export prepared events as an .npz for peers: items, offsets [U+1], test_start [U]."""
    shards = sorted((data / "shards").iterdir())
    items, offsets, splits = (
        [np.load(shard / f"{name}.npy") for shard in shards] for name in ("items", "offsets", "splits")
    )
    lengths = np.concatenate([np.diff(part) for part in offsets])
    test_start = np.concatenate([part[:, 1] for part in splits])
    np.savez(out, items=np.concatenate(items), offsets=np.concatenate([[0], np.cumsum(lengths)]), test_start=test_start)
    return out


def export_pictures(data: Path, out: Path, limits: Mapping[str, int | None]) -> Path:
    """Export images with a known first label as an .npz, up to a limit per split: pixels [N, C, S, S], labels [N]."""
    shards = sorted((data / "shards").iterdir())
    arrays = {}
    for split, limit in limits.items():
        rows = [np.load(shard / f"{split}.npy") for shard in shards]
        pixels, labels = (
            np.concatenate([np.load(shard / f"{name}.npy")[own] for shard, own in zip(shards, rows, strict=True)])
            for name in ("pictures", "labels")
        )
        known = np.flatnonzero(labels[:, 0] >= 0)[:limit]
        arrays |= {f"{split}_pixels": pixels[known], f"{split}_labels": labels[known, 0]}
    np.savez(out, **arrays)
    return out


def shopkeeper(
    role: str,
    data: Path,
    work: Path,
    *,
    config: Sequence[str] = (),
    more: Sequence[str] = (),
    family_name: str = "recommender",
) -> list[str]:
    """The command of Shopkeeper's worker; each needs a unique last part of `work`."""
    command = [sys.executable, "-m", "benchmarks.peers.shopkeeper_worker", role, "--family", family_name]
    return [*command, "--data", str(data), "--work", str(work), *more, "--config", *config]


def peer(name: str, peers: Path, role: str, data: Path, more: Sequence[str]) -> list[str]:
    """The command of a peer's worker, which runs in its own environment on exported data."""
    command = [str(peers.absolute() / name / "bin" / "python"), "-m", f"benchmarks.peers.{name}_worker", role]
    return [*command, "--data", str(data), *more]


def alternate(workers: Sequence[Worker], repeats: int) -> dict[str, list[Answer]]:
    """Query the workers in turn, A B A B, so that load on the machine affects all of them."""
    found: dict[str, list[Answer]] = {worker.name: [] for worker in workers}
    for _ in range(repeats):
        for worker in workers:
            found[worker.name].append(worker.ask())
            print(f"{worker.name}: {found[worker.name][-1]}", file=sys.stderr)
    return found


def _part(raw: Path, work: Path) -> Path:
    """The first sequences of a text log, with about QUICK_EVENTS events."""
    target = work / f"{label(str(raw))}.txt"
    num_events = 0
    opened = gzip.open if raw.suffix == ".gz" else open
    with opened(raw, "rt", encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        for line in lines:
            num_events += max(1, len(line.split()) - 1)
            out.write(line)
            if num_events >= QUICK_EVENTS:
                break
    return target
