"""The result page of a benchmark: medians and ranges in tables, and the conditions of the measurement."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.kit.measure import ROOT, Answer

PACKAGES = ("torch", "numpy", "scipy", "ray", "mlflow", "optuna")


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Create from one or more values."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, form: str = ",.0f") -> str:
        """The median, with minimum and maximum if there are several values."""
        if len(self.values) == 1:
            return format(self.median, form)
        return f"{self.median:{form}} [{min(self.values):{form}}, {max(self.values):{form}}]"


@dataclass(frozen=True)
class Table:
    """One table of a result page; the cells are text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(name: str, doc: str | None, arguments: argparse.Namespace, tables: Sequence[Table], raw: Answer) -> Path:
    """Write DATE-name.md and .json: the tables with the conditions, and all measurements.

    `raw["settings"]`, if present, holds the versions that each system reported.
    """
    conditions = _conditions(arguments)
    for system, said in raw.get("settings", {}).items():
        conditions[system] = ", ".join(f"{package} {version}" for package, version in said["versions"].items())
    now = datetime.now(UTC)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"# {name.replace('-', ' ').capitalize()}, {now.date()}", "", (doc or "").strip(), ""]
    if arguments.quick:
        lines += ["**Run with --quick, a smoke test: the numbers are meaningless.**", ""]
    for table in tables:
        lines += [f"## {table.title}", "", _row(table.header), _row(["---"] * len(table.header))]
        lines += [*(_row(row) for row in table.rows), ""]
    lines += ["## Conditions", "", *(f"- {key}: {value}" for key, value in conditions.items()), ""]
    page = out / f"{now.date()}-{name}{arguments.suffix and '-'}{arguments.suffix}.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    content = {"name": name, "at": now.isoformat(timespec="seconds"), "conditions": conditions, "raw": raw}
    page.with_suffix(".json").write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
    print(page.read_text(encoding="utf-8"))
    return page


def _conditions(arguments: argparse.Namespace) -> dict[str, str]:
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    entries = dict(line.split(":", 1) for line in facts.splitlines() if ":" in line)
    stripped = {name.strip(): value.strip() for name, value in entries.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    has = [flag for flag in wanted if flag in stripped.get("flags", "").split()]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    module = sys.modules["__main__"].__spec__
    named = [re.sub(r"[^\s=]*/", "", word) for word in sys.argv[1:]]
    return {
        "processor": f"{stripped.get('model name', platform.machine())}, family {stripped.get('cpu family', '?')} "
        f"model {stripped.get('model', '?')}, {os.cpu_count()} CPUs, {' '.join(has)}; {memory_gb:.0f} GB",
        "load of the machine at the end (1, 5, 15 minutes)": ", ".join(f"{value:.1f}" for value in os.getloadavg()),
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
            ]
        ),
        "commit": commit.stdout.strip(),
        "threads of each system": str(arguments.threads),
        "command (paths shortened)": f"`python -m {module.name if module else '?'} {shlex.join(named)}`",
        "numbers": "median [lowest, highest] of n repeats, alternating within one run",
    }


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)
