"""The directory of a store: names of any kind, read-only ones, full disks."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import evaluate, predict, status
from jobs.__main__ import main
from jobs.cli.context import Context, Store, UsageFailure, is_writable
from jobs.cli.everywhere import Everywhere
from jobs.tracking.client import BUNDLE, Tracking
from jobs.tracking.model_uri import locate_model
from jobs.tracking.registry import Registry
from models.family import Family
from models.prepared import Prepared
from tests.conftest import CHECKOUT
from tests.kit.toy_models import write_toy_model


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/shop", "HOME/shop"),
        ("./~shop", "CWD/~shop"),
        ("a b/c#d?e%20", "CWD/a b/c#d?e%20"),
        ("/shop", "/shop"),
    ],
)
def test_only_a_leading_tilde_is_a_home_directory(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    root = Everywhere(store=given).root

    assert str(root) == expected.replace("HOME", str(tmp_path / "home")).replace("CWD", str(tmp_path))


def test_a_store_that_cannot_be_one_is_a_usage_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "gone")

    assert main(["status", "--store", str(tmp_path / "file" / "store")]) == 2
    assert f"{tmp_path / 'file'} is not a directory" in capsys.readouterr().err
    assert main(["status", "--store", str(tmp_path / "link")]) == 2
    assert f"symbolic link to {tmp_path / 'gone'}" in capsys.readouterr().err
    assert main(["status", "--store", "\udcff"]) == 2
    assert "not valid text in UTF-8" in capsys.readouterr().err
    assert main(["status", "--name-prefix", "a/b"]) == 2
    assert "--name-prefix 'a/b' is not a prefix" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["prepare", "train", "sweep", "promote", "rollback", "deploy"])
def test_a_verb_that_writes_refuses_a_read_only_store_in_one_line(
    context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    flags = ["--raw", str(tmp_path / "log.csv")] if verb == "prepare" else []
    with read_only(context, tmp_path / "mounted") as mounted:
        exit_code = main([verb, "recommender", *flags, "--store", str(mounted.store.root)])

    assert exit_code == 2
    assert capsys.readouterr().err.startswith(f"error: --store {mounted.store.root} is not writable for this user")


def test_reading_verbs_work_in_a_read_only_store(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    _with_champion(context, toy, toy_data, tmp_path / "model")
    pq.write_table(pa.table({"visitor_id": ["v00001", "nobody"]}), tmp_path / "asked.parquet")
    before = _contents(context.store.root)
    with read_only(context, tmp_path / "mounted") as mounted:
        shown = status.run(mounted, toy, status.Options(), None)
        reported = evaluate.Options(bootstrap=100, report=str(tmp_path / "report"))
        evaluated = evaluate.run(mounted, toy, reported, None)
        options = predict.Options(input=str(tmp_path / "asked.parquet"), output=str(tmp_path / "answers.parquet"))
        predicted = predict.run(mounted, toy, options, None)
        with pytest.raises(UsageFailure, match="not writable; name another directory for the report with --report"):
            evaluate.run(mounted, toy, evaluate.Options(bootstrap=100), None)
        with pytest.raises(UsageFailure, match="is not writable"):
            Tracking(mounted).start_run("toy", name="a run", params={}, tags={})

    assert shown.details["families"]["toy"]["champion"]["version"] == "1"
    assert evaluated.metrics["test_accuracy"] > 0.5
    assert (predicted.metrics["rows"], predicted.metrics["errors"]) == (2, 1)
    assert _contents(context.store.root) == before


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, toy_raw: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"u{number % 50},i{number % 7},{1_700_000_000 + number * 3600}" for number in range(5000)]
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    command = [
        sys.executable,
        "-m",
        "jobs",
        "prepare",
        "recommender",
        "--raw",
        str(log),
        "--store",
        str(tmp_path / "store"),
    ]

    done = subprocess.run(
        [*command, "--store", str(tmp_path / "store")],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )

    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "File too large" in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "store").rglob("CURRENT"))


def test_a_directory_that_does_not_exist_is_writable_if_it_could_be_made(tmp_path: Path) -> None:
    assert is_writable(tmp_path / "new" / "store")


def _with_champion(context: Context, toy: Family, data: Prepared, directory: Path) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={})
    run.log_artifacts(write_toy_model(toy, data, directory), BUNDLE)
    registry = Registry(Tracking(context))
    located = locate_model(context, f"runs:/{run.run_id}")
    registry.set_alias("toy", "champion", registry.register("toy", run.run_id, located.directory, {}))


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@contextmanager
def read_only(context: Context, target: Path) -> Iterator[Context]:
    """The store on a file system that is mounted read-only; skips the test where mounting is not permitted."""
    target.mkdir()
    mounted = replace(context, store=Store(target))
    try:
        for command in (["--bind", str(context.store.root)], ["-o", "remount,bind,ro", str(context.store.root)]):
            if subprocess.run(["mount", *command, str(target)], capture_output=True).returncode:
                pytest.skip("may not mount a read-only file system")
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(target)], capture_output=True)
