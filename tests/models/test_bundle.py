"""The model directory: its files, and the errors for bundles that must not be loaded."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import Executor
from pathlib import Path

import pytest

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import FAMILIES, bundle, golden
from models.errors import BundleRejected
from models.family import Family, Features, Schema
from models.prepared import Prepared
from tests.kit import toy as toy_module
from tests.kit.toy_models import write_toy_model

TOKENISER = b"warm cold\n"


@pytest.fixture
def model(toy: Family, toy_data: Prepared, tmp_path: Path) -> Path:
    return write_toy_model(toy, toy_data, tmp_path / "model")


def change_manifest(directory: Path, **changes: object) -> None:
    """Change members of a manifest; the files stay unchanged."""
    path = directory / bundle.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_a_bundle_of_a_newer_format_is_rejected_with_a_remedy(toy: Family, model: Path) -> None:
    change_manifest(model, format=99)

    with pytest.raises(BundleRejected, match=r"MANIFEST\.json has format 99, and this release reads up to 1; upgrade"):
        bundle.load(model, toy)


@pytest.mark.parametrize("version", ["newest", None, [1], float("inf")])
def test_a_format_that_is_not_a_number_is_rejected(toy: Family, model: Path, version: object) -> None:
    change_manifest(model, format=version)

    with pytest.raises(BundleRejected, match=r"MANIFEST\.json is not readable"):
        bundle.load(model, toy)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"format": 1e400, "files": {}}', b"\xff", b'{"format": 1, "files": []}']
)
def test_a_manifest_that_cannot_be_read_is_rejected(model: Path, content: bytes) -> None:
    (model / bundle.MANIFEST).write_bytes(content)

    with pytest.raises(BundleRejected, match=r"MANIFEST\.json is not readable"):
        bundle.verify(model)


def test_a_manifest_with_a_name_that_no_file_can_have_is_rejected(model: Path) -> None:
    change_manifest(model, files={"x" * 1000: {"bytes": 1, "sha256": ""}})

    with pytest.raises(BundleRejected, match="is not readable"):
        bundle.verify(model, required=())


def test_a_file_that_is_nested_too_deeply_is_rejected(toy: Family, model: Path) -> None:
    (model / "metrics.json").write_text("[" * 100_000)
    bundle.seal(model)

    with pytest.raises(BundleRejected, match=r"metrics\.json is not JSON"):
        bundle.load(model, toy)


def test_packages_that_are_not_an_object_are_rejected(toy: Family, model: Path) -> None:
    change_manifest(model, packages=["x"])

    with pytest.raises(BundleRejected, match=r"MANIFEST\.json has packages \['x'\]"):
        bundle.load(model, toy)


def test_a_network_that_fails_to_build_in_any_way_is_rejected_with_its_error(toy: Family, model: Path) -> None:
    def build(config: object, schema: object) -> object:
        raise ZeroDivisionError("no colours")

    with pytest.raises(BundleRejected, match="is inconsistent: ZeroDivisionError: no colours"):
        bundle.load(model, dataclasses.replace(toy, build=build))


@pytest.mark.parametrize("content", [{}, {"request": {"numbers": [1, 2]}}, {"request": 3, "response": {}}])
def test_a_golden_file_without_a_usable_request_and_response_is_rejected(
    toy: Family, model: Path, content: dict[str, object]
) -> None:
    loaded = bundle.load(model, toy)

    with pytest.raises(BundleRejected, match=r"golden\.json cannot be answered"):
        golden.check(toy, loaded.network, loaded.schema, content)


def test_a_bundle_of_another_family_is_rejected_with_both_names(model: Path) -> None:
    with pytest.raises(BundleRejected, match="is of the family 'toy', not 'image'"):
        bundle.load(model, FAMILIES["image"])


def with_tokeniser(toy: Family) -> Family:
    """The toy family with a tokeniser file, which `encode` checks."""

    def prepare(config: toy_module.PrepareConfig, out: Path, executor: Executor) -> Schema:
        schema = toy_module.prepare(config, out, executor)
        (out / "tokeniser.txt").write_bytes(TOKENISER)
        return schema

    def encode(request: toy_module.Request, schema: Schema, features: Features) -> list[toy_module.Visitor]:
        assert schema.files["tokeniser.txt"] == TOKENISER
        return toy_module.encode(request, schema, features)

    endpoint = dataclasses.replace(toy.endpoints[0], encode=encode)
    return dataclasses.replace(toy, prepare=prepare, files=("tokeniser.txt",), endpoints=[endpoint])


def test_the_files_of_a_family_are_copied_from_prepared_data_to_every_bundle(
    toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    family = with_tokeniser(toy)
    (toy_data.path / "tokeniser.txt").write_bytes(TOKENISER)
    schema = toy_data.schema(family.Schema, family.files)
    config = family.Config(epochs=1)
    reports: list[object] = []

    result = run_training(
        family, config=config, data=toy_data, directory=tmp_path / "run", worker=WorkerContext(), report=reports.append
    )

    loaded = bundle.load(result.best, family)
    assert loaded.schema.files == schema.files == {"tokeniser.txt": TOKENISER}
    assert "files" not in json.loads((result.best / "schema.json").read_text())
    listed = json.loads((result.best / bundle.MANIFEST).read_text())["files"]
    assert listed["tokeniser.txt"]["bytes"] == len(TOKENISER)


def test_a_bundle_without_a_file_of_its_family_is_rejected(toy: Family, model: Path) -> None:
    with pytest.raises(BundleRejected, match=r"lacks tokeniser\.txt"):
        bundle.load(model, with_tokeniser(toy))


def test_a_bundle_with_a_changed_file_is_rejected(toy: Family, toy_data: Prepared, model: Path) -> None:
    (model / "tokeniser.txt").write_bytes(TOKENISER)
    bundle.seal(model)
    (model / "tokeniser.txt").write_bytes(TOKENISER.upper())

    with pytest.raises(BundleRejected, match=r"tokeniser\.txt differs from its manifest"):
        bundle.load(model, with_tokeniser(toy))
