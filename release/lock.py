"""Locks of the dependencies, with the hash of every file: `make lock` writes requirements/*.txt.

One resolution for every platform and Python is split into the parts that an installation is put together from.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
PYTHONS = ("3.11", "3.12", "3.13")
NODE_EXTRAS = ("all", "redis", "postgres", "encoder")
MACHINES = ("x86_64", "aarch64")
"""Processors of Linux; PyTorch has wheels of its own for these without CUDA, outside the usual index."""
CUDA = ("nvidia-", "cuda-", "triton")
"""How packages are called that only torch's CUDA build needs."""
TOOLS = {"uv": "uv==0.13.8", "cyclonedx": "cyclonedx-bom==7.5.0", "audit": "pip-audit==2.10.1"}
"""Programs with an environment of their own, for `make lock`, `make sbom` and `make audit`."""
ONLY_LINUX = "sys_platform == 'linux'"
HEADERS = {
    "runtime.txt": "What every node needs, but torch. Read by runtime-cpu.txt and runtime-cuda.txt.",
    "runtime-cpu.txt": "What a node without a GPU needs. On Linux torch without CUDA, from PyTorch's own index.",
    "runtime-cuda.txt": "What a node with a GPU needs: torch with CUDA, several gigabytes. Linux only.",
    "development.txt": "Tests, lint and types, on top of runtime-cpu.txt or runtime-cuda.txt.",
}
WRITTEN_BY = "# Written by `make lock` from pyproject.toml."

log = logging.getLogger("shopkeeper")

Lock = dict[str, str]
"""Name -> the requirement's lines with its hashes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the locks; versions stay as they are unless a package is given to --upgrade."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--uv", default="uv", help="the program uv")
    parser.add_argument("--upgrade", action="append", default=[], metavar="PACKAGE", help="move this one; may repeat")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    runtime = _resolved(given.uv, given.upgrade, extras=NODE_EXTRAS)
    everything = _resolved(given.uv, given.upgrade, extras=(*NODE_EXTRAS, "dev"))
    torch_version = re.split(r"==|[ \\]", runtime["torch"])[1]
    for name, text in split(runtime, everything, cpu_hashes=_cpu_hashes(torch_version)).items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        log.info("wrote %s", FOLDER / name)
    for name, requirement in TOOLS.items():
        lock = _compiled(given.uv, requirement)
        (FOLDER / "tools" / f"{name}.txt").write_text(f"{WRITTEN_BY}\n{lock}", encoding="utf-8")


def split(runtime: Lock, everything: Lock, *, cpu_hashes: Sequence[str]) -> dict[str, str]:
    """The text of each file of requirements/; `cpu_hashes` are those of torch's wheels without CUDA."""
    cuda = {name: lines for name, lines in runtime.items() if name.startswith(CUDA)}
    torch = runtime["torch"]
    requirement, _, hashes = torch.partition(" \\\n")
    assert ";" not in requirement, requirement
    without_cuda = " \\\n".join(
        [f"{requirement}+cpu ; {ONLY_LINUX}", *(f"    --hash=sha256:{each}" for each in cpu_hashes)]
    )
    elsewhere = f"{requirement} ; {ONLY_LINUX.replace('==', '!=')} \\\n{hashes}"
    parts = {
        "runtime.txt": ["--only-binary :all:", *(runtime[name] for name in runtime if name not in {*cuda, "torch"})],
        "runtime-cpu.txt": ["-r runtime.txt", without_cuda, elsewhere],
        "runtime-cuda.txt": ["-r runtime.txt", torch, *cuda.values()],
        "development.txt": [everything[name] for name in everything if name not in runtime],
    }
    return {name: "\n".join([f"# {HEADERS[name]}", WRITTEN_BY, *lines, ""]) for name, lines in parts.items()}


def read_lock(text: str) -> Lock:
    """The requirements of a lock by name."""
    blocks = re.findall(r"^[A-Za-z0-9][^\n]*(?:\n +--hash=[^\n]*)*", text, flags=re.M)
    return {re.split(r"[=\[ ;]", block)[0]: block for block in blocks}


def _resolved(uv: str, upgrade: Sequence[str], *, extras: Sequence[str]) -> Lock:
    with tempfile.TemporaryDirectory() as directory:
        constraints = Path(directory) / "constraints.txt"
        constraints.write_text("\n".join(_present(upgrade)), encoding="utf-8")
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        return read_lock(_compiled(uv, project, f"--constraint={constraints}", *(f"--extra={each}" for each in extras)))


def _compiled(uv: str, source: str, *flags: str) -> str:
    """The resolution of a pyproject.toml or of requirements, given as text."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / ("pyproject.toml" if "[project]" in source else "requirements.in")
        path.write_text(source, encoding="utf-8")
        command = [uv, "pip", "compile", str(path), "--universal", f"--python-version={PYTHONS[0]}", *flags]
        command += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _present(upgrade: Sequence[str]) -> list[str]:
    """The versions of the locks as they are, without those to move."""
    locks = [read_lock(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.txt"))]
    pinned = {name: re.split(r"[ ;\\+]", lines)[0] for lock in locks for name, lines in lock.items()}
    return [requirement for name, requirement in pinned.items() if name not in upgrade]


def _cpu_hashes(torch_version: str) -> list[str]:
    """The hashes of torch's wheels without CUDA that can be downloaded here, and those known before."""
    path, known = FOLDER / "runtime-cpu.txt", set[str]()
    if path.is_file():
        match = re.search(
            rf"^torch=={re.escape(torch_version)}\+cpu[^\n]*(?:\n +--hash=[^\n]*)*", path.read_text(), re.M
        )
        known = set(re.findall(r"sha256:([0-9a-f]{64})", match[0] if match else ""))
    for python in PYTHONS:
        for machine in MACHINES:
            with tempfile.TemporaryDirectory() as directory:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
                command += [f"--python-version={python}", f"--platform=manylinux_2_28_{machine}", f"--dest={directory}"]
                done = subprocess.run([*command, f"torch=={torch_version}+cpu"], capture_output=True, check=False)
                known |= {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in Path(directory).iterdir()}
            if done.returncode:
                log.warning("no torch %s+cpu was found for Python %s on %s", torch_version, python, machine)
    if not known:
        sys.exit("no wheel of torch without CUDA was found: set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels")
    return sorted(known)


if __name__ == "__main__":
    main()
