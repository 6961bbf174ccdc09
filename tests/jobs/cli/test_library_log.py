"""What libraries write goes to a log file; what we and our workers log stays visible."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs.__main__ import main
from jobs.cli.library_log import MAX_LOGS, MarkedFormatter, libraries_logged
from jobs.cli.verbs import VERBS, Verb
from tests.conftest import CHECKOUT

VERB_WITH_NOISE = """
import logging, os, subprocess, sys
from pathlib import Path
from jobs.cli.library_log import libraries_logged
handler = logging.StreamHandler(sys.stderr)
log = logging.getLogger("shopkeeper")
log.addHandler(handler)
log.setLevel(logging.INFO)
with libraries_logged(Path(sys.argv[1]), "train"):
    print("a print")
    sys.stderr.write("a traceback\\n")
    os.write(2, b"native code\\n")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('a child process\\\\n')"], check=True)
    sys.stderr.write("(RayTrainWorker pid=1) [shopkeeper] INFO epoch 1\\n")
    log.info("a message of ours")
log.info("the end")
sys.stderr.write("error: shown\\n")
"""


def test_stderr_shows_our_messages_and_those_of_our_workers_only(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", VERB_WITH_NOISE, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )

    (file,) = tmp_path.glob("train-*.log")
    assert done.stderr.splitlines() == ["epoch 1", "a message of ours", "the end", "error: shown"]
    assert done.stdout == ""
    assert file.read_text().splitlines() == ["a print", "a traceback", "native code", "a child process"]


def test_lines_of_several_threads_are_not_mixed(tmp_path: Path) -> None:
    turns = [threading.Event() for _ in range(2)]

    def write(own: int, other: int) -> None:
        for part in (f"begin {own}, ", f"end {own}\n"):
            turns[own].wait(timeout=10)
            turns[own].clear()
            sys.stderr.write(part)
            turns[other].set()

    with libraries_logged(tmp_path, "train") as libraries:
        threads = [threading.Thread(target=write, args=(own, 1 - own)) for own in range(2)]
        for thread in threads:
            thread.start()
        turns[0].set()
        for thread in threads:
            thread.join()

    assert libraries is not None
    assert libraries.read_text().splitlines() == ["begin 0, end 0", "begin 1, end 1"]


def test_a_worker_marks_every_line_of_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("shopkeeper", logging.WARNING, "", 0, "first\nsecond", None, None)

    with caplog.at_level(logging.INFO, "shopkeeper"), libraries_logged(tmp_path / "logs", "train"):
        logging.getLogger("shopkeeper").addHandler(caplog.handler)
        sys.stderr.write(MarkedFormatter("trial 7: %(message)s").format(record) + "\n")
        logging.getLogger("shopkeeper").removeHandler(caplog.handler)

    shown = {(each.levelname, each.getMessage()) for each in caplog.records}
    assert shown == {("WARNING", "trial 7: first"), ("WARNING", "second")}


def test_a_verb_without_noise_leaves_no_file(tmp_path: Path) -> None:
    with libraries_logged(tmp_path / "logs", "train") as libraries:
        assert libraries is not None and libraries.is_file()

    assert not (tmp_path / "logs").exists()


def test_only_its_owner_can_read_the_log(tmp_path: Path) -> None:
    with libraries_logged(tmp_path, "train") as libraries:
        sys.stderr.write("a value\n")

    assert libraries is not None
    assert stat.S_IMODE(libraries.stat().st_mode) == 0o600


def test_the_output_stays_on_stderr_if_the_file_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file")

    with libraries_logged(tmp_path / "logs", "train") as libraries:
        sys.stderr.write("a traceback\n")

    assert libraries is None
    assert capsys.readouterr().err == "a traceback\n"


def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    for age in range(MAX_LOGS + 5):
        (tmp_path / f"train-{age}.log").write_text("noise")
        os.utime(tmp_path / f"train-{age}.log", (1_700_000_000 - age, 1_700_000_000 - age))

    with libraries_logged(tmp_path, "train"):
        sys.stderr.write("noise\n")

    assert len(list(tmp_path.glob("*.log"))) == MAX_LOGS
    assert (tmp_path / "train-0.log").is_file()


@pytest.mark.parametrize(("how", "is_named"), [("ok", False), ("data", True)])
def test_the_log_is_named_only_when_a_verb_fails(
    how: str, is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VERBS, "play", Verb("tests.kit.verbs", "for tests", takes_family="no", logs_libraries=True))

    main(["play", "--how", how, "--json", "--store", str(tmp_path)])

    (file,) = (tmp_path / "logs").glob("play-*.log")
    shown = capsys.readouterr()
    assert file.read_text() == "a library talks\n"
    assert "a library talks" not in shown.err
    assert (f"the log of Ray and other libraries: {file}" in shown.err) == is_named
    assert json.loads(shown.out).get("library_log") == (str(file) if is_named else None)


def test_debug_shows_the_output_of_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VERBS, "play", Verb("tests.kit.verbs", "for tests", takes_family="no", logs_libraries=True))

    main(["play", "--debug", "--store", str(tmp_path / "store")])

    assert "a library talks" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_lines_of_the_log_but_not_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda _path, *args, **kwargs: real_open(Path("/dev/full"), *args, **kwargs))

    with libraries_logged(tmp_path, "train"):
        sys.stderr.write("a traceback\n")
        sys.stderr.write("another\n")
