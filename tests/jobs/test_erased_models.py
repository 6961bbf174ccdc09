"""Models of erased users: named until they are replaced and purged, and proven to be without them after that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import promote
from jobs.cli.context import Context, Failure
from jobs.deploy import pin
from jobs.tracking.client import BUNDLE, TAG_FINGERPRINT, Tracking
from jobs.tracking.model_uri import locate_model
from jobs.tracking.registry import CHAMPION, Registry
from models import FAMILIES
from models.bundle import seal
from models.erasure.receipts import read_receipts
from models.erasure.request import erase_at_once
from models.erasure.tombstones import Tombstones
from models.prepared import Prepared
from tests.kit.erasable import USER, bytes_with, erase, prepare_erasable
from tests.kit.shop import write_model

RECOMMENDER = FAMILIES["recommender"]


@pytest.fixture
def data(context: Context, tmp_path: Path) -> Prepared:
    return prepare_erasable(context, tmp_path)


@pytest.fixture
def trained(context: Context, tmp_path: Path) -> Callable[[], str]:
    """Tracks, registers, promotes and pins a model of the current data; returns its version."""

    def train() -> str:
        data = context.store.current_data("recommender")
        bundle = write_model(RECOMMENDER, data, tmp_path / f"bundle-{data.name}", network="transitions")
        tracking = Tracking(context)
        run = tracking.start_run("recommender", name="t", params={}, tags={TAG_FINGERPRINT: data.fingerprint})
        run.log_artifacts(bundle, BUNDLE)
        run.end("FINISHED")
        registry = Registry(tracking)
        version = registry.register("recommender", run.run_id, bundle, {})
        registry.set_alias("recommender", CHAMPION, version)
        pin(context.store, RECOMMENDER, locate_model(context, f"models:/recommender/{version}"))
        return version

    return train


def test_the_receipt_names_models_until_they_are_replaced_and_purged(
    context: Context, data: Prepared, trained: Callable[[], str]
) -> None:
    first, fingerprint = trained(), data.fingerprint

    receipt = erase(context, USER).details["receipts"][0]

    held = {each["what"]: each for each in receipt["traces"] if each["state"] == "held"}
    assert held.keys() == {"run", "model version", "pinned bundle"}
    assert held["model version"]["where"] == f"recommender {first}"
    assert {each["fingerprint"] for each in held.values()} == {fingerprint}
    assert "train recommender" in held["model version"]["remedy"] and "deploy" in held["model version"]["remedy"]
    with pytest.raises(Failure, match="something is left"):
        erase(context, USER, verify=True)

    second = trained()
    with pytest.raises(Failure, match=f"recommender {first}"):
        erase(context, USER, verify=True)
    outcome = erase(context, purge=True)

    assert outcome.details == {"deleted": 3, "in_use": []}
    assert [info.version for info in Registry(Tracking(context)).list_versions("recommender")] == [second]
    assert erase(context, USER, verify=True).status == "none"
    assert next(read_receipts(context.store.root)).status == "erased"


def test_a_purge_keeps_the_champion(context: Context, data: Prepared, trained: Callable[[], str]) -> None:
    version = trained()
    erase(context, USER)

    outcome = erase(context, purge=True)

    assert outcome.status == "held"
    assert f"model version {version}" in outcome.details["in_use"]
    assert Registry(Tracking(context)).get_alias("recommender", CHAMPION) == version


def test_a_user_of_data_that_were_rewritten_for_another_is_in_the_older_models_too(
    context: Context, data: Prepared, trained: Callable[[], str]
) -> None:
    trained()
    erase(context, USER)

    receipt = erase(context, "u3").details["receipts"][0]

    assert "model version" in {each["what"] for each in receipt["traces"] if each["state"] == "held"}


def test_whoever_was_not_in_the_data_is_not_suspected_once_these_are_gone(
    context: Context, data: Prepared, trained: Callable[[], str]
) -> None:
    trained()
    for user in (USER, "never-seen"):  # as two requests over HTTP do
        erase_at_once(context.store.root, [user])
    erase(context, pending=True)
    erase(context, "never-seen-either")

    receipts = {receipt.user: receipt for receipt in read_receipts(context.store.root)}
    digest = Tombstones(context.store.tombstones).digest
    assert not data.path.exists()
    assert receipts[digest(USER)].status == "held"
    assert receipts[digest("never-seen")].status == receipts[digest("never-seen-either")].status == "erased"
    assert erase(context, "never-seen", verify=True).status == "none"


def test_user_ids_are_neither_in_bundles_nor_in_mlflow(
    context: Context, data: Prepared, trained: Callable[[], str]
) -> None:
    trained()

    assert [path for path in bytes_with(context.store.root, USER) if not path.startswith("recommender/")] == []


def test_a_model_trained_after_the_erasure_is_proven_and_one_from_before_is_not(
    context: Context, data: Prepared, trained: Callable[[], str]
) -> None:
    before = trained()
    erase(context, USER)
    after = trained()

    proven = erase(context, USER, prove=True, model=f"models:/recommender/{after}")

    assert proven.status == "proven"
    assert len(proven.details["checks"]) == 4
    with pytest.raises(Failure, match="FAILED no data that held the user trained it"):
        erase(context, USER, prove=True, model=f"models:/recommender/{before}")


def test_a_bundle_that_quotes_the_id_is_not_proven(
    context: Context, data: Prepared, trained: Callable[[], str], tmp_path: Path
) -> None:
    erase(context, USER)
    trained()
    bundle = tmp_path / f"bundle-{context.store.current_data('recommender').name}"
    metrics = json.loads((bundle / "metrics.json").read_text())
    (bundle / "metrics.json").write_text(json.dumps({**metrics, "note": f"tried with {USER}"}))
    seal(bundle)

    with pytest.raises(Failure, match=r"FAILED the bundle does not quote the id: metrics\.json: note"):
        erase(context, USER, prove=True, model=str(bundle))


def test_a_model_that_is_no_worse_replaces_a_champion_that_knows_an_erased_user(
    context: Context, data: Prepared, trained: Callable[[], str], tmp_path: Path
) -> None:
    first = trained()
    retrained = write_model(RECOMMENDER, data, tmp_path / "again", network="transitions", seed=1)
    assert f"better than champion {first}" in checks_of(context, retrained)
    erase(context, USER)
    clean = context.store.current_data("recommender")

    bundle = write_model(RECOMMENDER, clean, tmp_path / "clean", network="transitions")

    checks = checks_of(context, bundle)
    assert checks[f"no worse than champion {first}"]
    assert f"better than champion {first}" not in checks
    assert f"better than champion {first}" in checks_of(context, retrained), "that knows the user too"


def checks_of(context: Context, model: Path) -> dict[str, bool]:
    """The checks of the gate that a model passes or not, by name; it is not promoted."""
    data = context.store.current_data("recommender")
    pair = promote._load_pair(context, RECOMMENDER, Tracking(context), promote.Options(model=str(model)))
    options = promote.Options(bootstrap=1000)
    scores = promote._score(context, "the candidate", pair.model, data, options)
    return {check.name: check.passed for check in promote._gate(context, RECOMMENDER, pair, scores, options).checks}
