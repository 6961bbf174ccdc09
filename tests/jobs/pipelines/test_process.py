"""Verbs as child processes: result and log in files, a time limit, and none that outlives its pipeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cluster.processes import created_s, running_process
from jobs.pipelines import process
from jobs.pipelines.process import read_result, result_path, run_verb, tail
from tests.conftest import CHECKOUT
from tests.kit.polling import until

TIMEOUT_S = 60.0
FOR_EVER = "import sys, time; sys.stderr.write('begun\\n'); sys.stderr.flush(); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOR_EVER}"


def no_note(pid: int, started_s: float) -> None:
    """The process is of no interest."""


def test_a_verb_leaves_its_json_line_and_its_log_in_private_files(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "step.log"

    ended = run_verb(["promote", "nobody"], log=log, timeout_s=None, started=no_note)

    assert ended.exit_code == 2
    assert "unknown family 'nobody'" in ended.line["error"]
    assert "unknown family 'nobody'" in tail(log)
    assert read_result(log) == ended.line
    assert {path.stat().st_mode & 0o777 for path in (log, result_path(log))} == {0o600}


@pytest.mark.parametrize("code", [FOR_EVER, STUBBORN])
def test_a_verb_beyond_its_time_is_stopped(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START", code)
    monkeypatch.setattr(process, "STOP_S", 0.5)
    pids = []

    ended = run_verb([], log=tmp_path / "log", timeout_s=0.5, started=lambda pid, _: pids.append(pid))

    assert ended.timed_out
    assert not Path(f"/proc/{pids[0]}").exists()


def test_an_interruption_stops_the_verb_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START", FOR_EVER)
    pids = []

    def interrupt(pid: int, started_s: float) -> None:
        pids.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_verb([], log=tmp_path / "log", timeout_s=None, started=interrupt)

    assert not Path(f"/proc/{pids[0]}").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux does it")
def test_a_verb_does_not_outlive_a_killed_pipeline(tmp_path: Path) -> None:
    log, pid_file = tmp_path / "log", tmp_path / "pid"
    code = f"""
from pathlib import Path
from jobs.pipelines import process
process.START = {FOR_EVER!r}
note = Path({str(pid_file)!r})
process.run_verb([], log=Path({str(log)!r}), timeout_s=None, started=lambda pid, _: note.write_text(str(pid)))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT)
    until(lambda: tail(log) == "begun" and pid_file.is_file() and pid_file.read_text() != "")
    pid = int(pid_file.read_text())
    started_s = created_s(pid)

    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()

    until(lambda: running_process(pid, started_s) is None)
