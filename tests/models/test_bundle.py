"""The model directory: what it carries, and what is refused by name before anything of it is used."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import Executor
from pathlib import Path

import pytest

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import FAMILIES, bundle
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
    """Rewrite members of a manifest; the files stay as they are."""
    path = directory / bundle.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_a_bundle_of_a_newer_format_is_refused_with_the_remedy(toy: Family, model: Path) -> None:
    change_manifest(model, format=99)

    with pytest.raises(BundleRejected, match=r"MANIFEST\.json has format 99, and this release reads up to 1; upgrade"):
        bundle.load(model, toy)


@pytest.mark.parametrize("written_as", ["newest", None, [1]])
def test_a_format_that_is_no_number_is_refused(toy: Family, model: Path, written_as: object) -> None:
    change_manifest(model, format=written_as)

    with pytest.raises(BundleRejected, match=r"MANIFEST\.json is not readable"):
        bundle.load(model, toy)


def test_a_bundle_of_another_family_is_refused_by_both_names(model: Path) -> None:
    with pytest.raises(BundleRejected, match="is of the family 'toy', not 'image'"):
        bundle.load(model, FAMILIES["image"])


def with_tokeniser(toy: Family) -> Family:
    """The toy with a file beside its schema, which its requests are encoded with."""

    def prepare(config: toy_module.PrepareConfig, out: Path, executor: Executor) -> Schema:
        schema = toy_module.prepare(config, out, executor)
        (out / "tokeniser.txt").write_bytes(TOKENISER)
        return schema

    def encode(request: toy_module.Request, schema: Schema, features: Features) -> list[toy_module.Visitor]:
        assert schema.files["tokeniser.txt"] == TOKENISER
        return toy_module.encode(request, schema, features)

    endpoint = dataclasses.replace(toy.endpoints[0], encode=encode)
    return dataclasses.replace(toy, prepare=prepare, files=("tokeniser.txt",), endpoints=[endpoint])


def test_files_of_a_family_go_from_prepared_data_into_every_bundle(
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


def test_a_bundle_without_a_file_of_its_family_is_refused(toy: Family, model: Path) -> None:
    with pytest.raises(BundleRejected, match=r"lacks tokeniser\.txt"):
        bundle.load(model, with_tokeniser(toy))


def test_a_changed_file_of_a_family_is_refused(toy: Family, toy_data: Prepared, model: Path) -> None:
    (model / "tokeniser.txt").write_bytes(TOKENISER)
    bundle.seal(model)
    (model / "tokeniser.txt").write_bytes(TOKENISER.upper())

    with pytest.raises(BundleRejected, match=r"tokeniser\.txt differs from its manifest"):
        bundle.load(model, with_tokeniser(toy))
