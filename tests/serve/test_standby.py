"""The standby: the previous model stays loaded, and is swapped in at once if it still gives its golden answer."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models import bundle
from models.family import Family
from serve import standby
from serve.metrics import MODEL_INFO, RELOADS
from serve.service import Service, Settings
from tests.kit import toy as toy_module
from tests.kit.counts import counted
from tests.kit.toy import FAMILY

ENDPOINT = FAMILY.endpoints[0]


def settings(directory: Path, version: str, *, previous: tuple[Path, str] | None = None) -> Settings:
    kept = {"version": previous[1], "bundle": previous[0]} if previous else None
    return Settings.model_validate({"version": version, "bundle": directory, "standby": kept})


@pytest.fixture
def models(toy: Family, toy_bundle: Callable[..., Path]) -> tuple[Path, Path]:
    """The directories of two models."""
    return toy_bundle("one"), toy_bundle("two")


def served(*steps: Settings, before_last: Callable[[], object] = lambda: None) -> Service:
    """A service that was given settings one after the other, each when the standby of those before was loaded."""
    service = Service("toy")

    async def load() -> None:
        for number, step in enumerate(steps):
            if number == len(steps) - 1:
                before_last()
            await service.load(step)
            await service._standby.finish_loading()

    asyncio.run(load())
    return service


def test_a_rollback_needs_no_file_of_the_previous_model(models: tuple[Path, Path]) -> None:
    one, two = models

    service = served(
        settings(one, "1"),
        settings(two, "2", previous=(one, "1")),
        settings(one, "1", previous=(two, "2")),
        before_last=lambda: shutil.rmtree(one),
    )

    assert (service.info().version, service.info().standby) == ("1", "2")
    assert service.info().last_failed_reload is None
    answer = asyncio.run(service.answer(ENDPOINT, toy_module.Request(numbers=(1.0, 0.0))))
    assert answer.model_dump()["model_version"] == "1"


def test_a_replica_that_starts_loads_the_standby_after_the_model_in_use(models: tuple[Path, Path]) -> None:
    one, two = models
    service = Service("toy")
    standbys = []

    async def load() -> None:
        await service.load(settings(two, "2", previous=(one, "1")))
        standbys.append(service.info().standby)
        await service._standby.finish_loading()
        standbys.append(service.info().standby)

    asyncio.run(load())

    assert (service.info().version, standbys) == ("2", [None, "1"])


def test_a_rollback_while_the_standby_is_being_loaded_waits_for_it(models: tuple[Path, Path]) -> None:
    one, two = models
    service = Service("toy")

    async def load() -> None:
        await service.load(settings(two, "2", previous=(one, "1")))
        await service.load(settings(one, "1", previous=(two, "2")))

    asyncio.run(load())

    assert (service.info().version, service.info().standby) == ("1", "2")


def test_a_standby_that_no_longer_gives_its_golden_answer_is_loaded_again(models: tuple[Path, Path]) -> None:
    one, two = models
    service = Service("toy")

    async def load() -> None:
        await service.load(settings(two, "2", previous=(one, "1")))
        await service._standby.finish_loading()
        assert service._standby._loaded is not None
        golden = service._standby._loaded.model.golden
        golden["response"] = {**golden["response"], "colour": "another"}
        await service.load(settings(one, "1"))

    asyncio.run(load())

    assert (service.info().version, service.info().last_failed_reload) == ("1", None)
    assert service.current is not None
    assert service.current.model.golden["response"]["colour"] != "another"


def test_a_standby_that_cannot_be_loaded_does_not_affect_the_model_in_use(
    models: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = models
    content = json.loads((one / "golden.json").read_text())
    content["response"]["colour"] = "another"
    (one / "golden.json").write_text(json.dumps(content))
    bundle.seal(one)

    service = served(settings(two, "2", previous=(one, "1")))

    assert (service.info().version, service.info().standby, service.info().last_failed_reload) == ("2", None, None)
    assert "a rollback will load it" in caplog.text


def test_a_standby_that_would_take_much_of_the_free_memory_is_not_loaded(
    models: tuple[Path, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = models
    monkeypatch.setattr(standby, "MEMORY_SHARE", 0.0)

    service = served(settings(two, "2", previous=(one, "1")), settings(one, "1", previous=(two, "2")))

    assert (service.info().version, service.info().standby) == ("1", "2"), "the replaced model is in memory already"
    assert "MB are free" in caplog.text


def test_another_standby_is_loaded_without_a_reload_of_the_model_in_use(
    models: tuple[Path, Path], toy_bundle: Callable[..., Path]
) -> None:
    one, two = models
    three = toy_bundle("three")

    service = served(
        settings(two, "2", previous=(one, "1")),
        settings(two, "2", previous=(three, "3")),
        before_last=lambda: shutil.rmtree(two),
    )

    assert (service.info().version, service.info().standby) == ("2", "3")
    assert service.info().last_failed_reload is None


def test_metrics_count_the_models_in_use_and_not_the_standby(models: tuple[Path, Path]) -> None:
    one, two = models

    service = served(
        settings(one, "1"),
        settings(two, "2", previous=(one, "1")),
        settings(one, "1", previous=(two, "2")),
    )

    assert counted(RELOADS, service) == {"loaded": 3}
    assert [labels[0] for labels, _ in service.metrics.snapshot()["numbers"][MODEL_INFO.name]] == ["1"]


def test_a_deployment_that_changes_keys_and_request_log_keeps_the_standby(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = models
    guarded = {"keys": tmp_path / "keys.json", "requires_keys": True, "request_log": tmp_path / "log"}
    new = settings(two, "2", previous=(one, "1"))

    service = served(settings(one, "1"), new, new.model_copy(update=guarded))

    assert service.guard.is_guarding
    assert (service.info().version, service.info().standby) == ("2", "1")
    service.request_log.close()
