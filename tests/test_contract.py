"""Every family goes through the pipeline on its own sample: prepare, an epoch, bundle, golden, evaluation, answers."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient

from jobs.evaluation.scoring import load_model, score_shards
from jobs.prediction.answer_table import ERROR, MODEL_VERSION, Recipe, TableAnswerer
from jobs.prediction.input_table import Columns
from jobs.prepare_summary import summary_of
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import FAMILIES, bundle
from models.ask import Answerer
from models.evaluate import Scores, join
from models.family import Family
from models.features import FeatureStore, fill
from models.golden import as_json
from models.prepared import Prepared
from models.sample import Question, Sample
from serve.routes import make_app
from serve.service import Service, Settings
from tests.conftest import write_visitors
from tests.kit.register import TOY

NUM_ROWS = 5000
"""Of a sample's raw table; all of it would take longer and show no more."""
MALFORMED: Mapping[str, Mapping[str, Any]] = {
    "toy": {"visitor_id": "nobody"},
    "recommender": {"count": 0},
    "image": {"image": base64.b64encode(b"%PDF").decode()},
    "forecast": {"product_id": "never sold"},
    "pricing": {"products": ["never sold"]},
    "reviews": {"texts": []},
}
"""Fields of a request that each family refuses."""
OF_OTHER_PACKAGES = {entry.name for entry in entry_points(group="shopkeeper.families")}
VERSION = "7"


def toy_sample(directory: Path) -> Sample:
    """The toy's, as the other families have one."""
    raw = write_visitors(directory / "visitors.csv")
    numbers = [(1.5, 1.0), (-1.0, 0.5), (0.2, -1.5)]
    questions = [Question(f"{pair}", {"numbers": list(pair)}, "") for pair in numbers]
    questions.append(Question("a visitor of the log", {"visitor_id": "v00003"}, ""))
    return Sample(prepare={"raw": str(raw)}, train={"network": "hidden"}, questions=questions)


@dataclass(frozen=True)
class Line:
    """What a family's sample became on its way."""

    family: Family
    sample: Sample
    data: Prepared
    reports: list[dict[str, float | int]]
    model: Path
    features: Path | None

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [dict(question.request) for question in self.sample.questions]


@pytest.fixture(scope="module", params=["toy", *FAMILIES])
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """One family, prepared and trained for one epoch."""
    directory = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", dataclasses.replace(TOY, sample=toy_sample))
        family = FAMILIES[request.param]
        assert family.sample is not None, f"{family.name} has no sample to go the line with"
        sample = family.sample(directory / "raw")
        shorten(Path(sample.prepare["raw"]))
        data = prepared(family, sample, directory / "data", num_threads=2)
        reports: list[dict[str, float | int]] = []
        result = run_training(
            family,
            config=family.Config(**{**sample.train, "epochs": 1}),
            data=data,
            directory=directory / "run",
            worker=WorkerContext(),
            report=reports.append,
        )
        yield Line(family, sample, data, reports, result.best, filled(family, data, directory / "features.sqlite"))


def test_every_trained_parameter_gets_a_gradient_for_which_several_workers_would_wait(line: Line) -> None:
    family, schema = line.family, line.data.schema(line.family.Schema, line.family.files)
    config = family.resolve(family.Config(**line.sample.train), schema)
    network = family.build(config, schema).train()
    family.initialise(network, line.data, schema)
    examples = family.dataset(line.data, "train", range(schema.num_shards), schema=schema, config=config, epoch=1)
    batch = family.collate([examples[row] for row in range(min(len(examples), config.batch_size))])

    torch.autograd.backward(family.loss(network, batch))

    parameters = network.named_parameters()
    assert not [name for name, each in parameters if each.requires_grad and each.grad is None]


def test_the_card_is_summed_up_for_people(line: Line) -> None:
    assert "rows read" in summary_of(line.data.card(), line.data.path, status="ok", seconds=1.0)


def prepared(family: Family, sample: Sample, directory: Path, *, num_threads: int) -> Prepared:
    directory.mkdir()
    with ThreadPoolExecutor(num_threads) as executor:
        schema = family.prepare(family.PrepareConfig(**sample.prepare), directory, executor)
    assert schema.model_dump(mode="json") == json.loads((directory / "schema.json").read_text())
    return Prepared(directory)


def filled(family: Family, data: Prepared, path: Path) -> Path | None:
    if not family.features:
        return None
    store = FeatureStore(path)
    fill(store, family.features, data)
    store.close()
    return path


def test_prepared_data_have_all_splits_a_card_and_a_quarantine(line: Line) -> None:
    schema = line.data.schema(line.family.Schema, line.family.files)
    card = line.data.card()

    assert schema.family == line.family.name and len(schema.fingerprint) == 64
    assert all(schema.num_examples[split] > 0 for split in ("train", "val", "test"))
    assert card["rows"] > 0 and "bad" in card
    assert (line.data.path / "quarantine").is_dir()
    assert set(schema.files) == set(line.family.files)


def test_the_same_rows_give_the_same_schema_on_any_number_of_processors(line: Line, tmp_path: Path) -> None:
    again = prepared(line.family, line.sample, tmp_path / "again", num_threads=1)

    assert again.schema(line.family.Schema) == line.data.schema(line.family.Schema)


def test_an_epoch_reports_plain_finite_numbers_and_the_followed_metric(line: Line) -> None:
    assert [report["epoch"] for report in line.reports] == [0, 1]
    for report in line.reports:
        assert {f"val_{line.family.metric.name}", f"best_val_{line.family.metric.name}"} <= set(report)
        assert all(type(value) in (int, float) and math.isfinite(value) for value in report.values())


def test_a_bundle_loads_alone_with_the_settings_it_was_trained_with(line: Line) -> None:
    loaded = bundle.load(line.model, line.family)

    config = line.family.Config(**{**line.sample.train, "epochs": 1})
    assert loaded.config == line.family.resolve(config, loaded.schema)
    assert loaded.schema == line.data.schema(line.family.Schema, line.family.files)
    assert loaded.metrics["epoch"] in (0, 1)
    assert {path.suffix for path in line.model.iterdir()} - {Path(name).suffix for name in line.family.files} <= {
        ".json",
        ".safetensors",
    }


def test_a_loaded_model_gives_its_golden_answer_within_a_ten_thousandth(line: Line) -> None:
    loaded = bundle.load(line.model, line.family)
    endpoint = line.family.endpoints[0]
    request = line.family.golden_request(loaded.schema)
    assert isinstance(request, endpoint.Request)

    answer = as_json(Answerer(line.family, endpoint, loaded.network, loaded.schema, VERSION)(request))

    assert loaded.golden["response"]
    assert not differences(leaves(loaded.golden["response"]), leaves(answer), relative=1e-4)


def test_an_evaluation_is_the_same_bits_on_1_and_on_2_workers(line: Line) -> None:
    model = load_model(line.model, line.family)
    shards = range(line.data.num_shards)

    alone = scores_of(score_shards(model, line.data, "test", shards))
    first = score_shards(model, line.data, "test", shards[0::2])
    together = scores_of(first | score_shards(model, line.data, "test", shards[1::2]))

    assert alone.num_examples == model.schema.num_examples["test"]
    values = alone.values(line.family.all_metrics)
    assert line.family.metric.name in values
    assert together.values(line.family.all_metrics) == values
    for part in ("numerators", "denominators", "slices", "kept", "accumulators"):
        ours, theirs = getattr(alone, part), getattr(together, part)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(np.asarray(ours[name]), np.asarray(theirs[name])) for name in ours)
    whole = line.family.summarise(alone.accumulators, model.schema)
    assert whole == line.family.summarise(together.accumulators, model.schema)


def test_every_example_has_a_label_in_every_slice(line: Line) -> None:
    model = load_model(line.model, line.family)
    alone = scores_of(score_shards(model, line.data, "val", range(line.data.num_shards)))

    assert all(len(labels) == alone.num_examples for labels in alone.slices.values())


def test_batch_prediction_gives_the_answers_of_the_endpoint(line: Line) -> None:
    client = client_of(line)
    path = line.family.endpoints[0].path.removeprefix(line.family.route_prefix.rstrip("/"))

    rows = predicted(line, line.requests)

    assert len(rows) == len(line.requests) > 0
    for request, row in zip(line.requests, rows, strict=True):
        response, again = (client.post(path, json=request) for _ in range(2))
        assert response.status_code == 200, response.text
        expected, other = leaves(response.json()), leaves(again.json())
        fresh = {place for place, value in expected.items() if isinstance(value, str) and other[place] != value}
        assert row[ERROR] is None and row[MODEL_VERSION] == VERSION
        assert not set(differences(expected, leaves(row), relative=1e-5)) - fresh


def test_a_malformed_request_is_refused_and_harms_no_other(line: Line) -> None:
    if line.family.name not in MALFORMED:
        assert line.family.name in OF_OTHER_PACKAGES, f"say in MALFORMED which request {line.family.name} refuses"
        pytest.skip(f"{line.family.name} is of another package, which tests its own requests")
    malformed = dict(MALFORMED[line.family.name])
    path = line.family.endpoints[0].path.removeprefix(line.family.route_prefix.rstrip("/"))

    response = client_of(line).post(path, json=malformed)
    *before, bad, after = predicted(line, [*line.requests, malformed, line.requests[0]])

    assert response.status_code == 422 and response.headers["content-type"] == "application/problem+json"
    assert bad[ERROR] and bad[MODEL_VERSION] is None
    assert all(row[ERROR] is None and row[MODEL_VERSION] == VERSION for row in [*before, after])


def scores_of(by_shard: Mapping[int, Scores | None]) -> Scores:
    scores = join([by_shard[shard] for shard in sorted(by_shard)])
    assert scores is not None
    return scores


def client_of(line: Line) -> TestClient:
    """The family's endpoints with the trained model behind them."""
    service = Service(line.family.name)
    asyncio.run(service.load(Settings(version=VERSION, bundle=line.model, feature_store=line.features)))
    return TestClient(make_app(service))


def predicted(line: Line, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of answers to a table of requests."""
    raw = line.family.endpoints[0].raw
    if raw is not None:
        requests = [{**each, raw.field: base64.b64decode(each[raw.field])} for each in requests]
    # The columns of all rows: from_pylist alone would take those of the first.
    names = sorted({name for request in requests for name in request})
    columns = Columns({name: name for name in names}, ())
    recipe = Recipe(
        line.family.name, line.model, VERSION, line.features, None, fixed={}, batch_size=16, columns=columns
    )
    table = pa.table({name: [request.get(name) for request in requests] for name in names})
    rows: list[dict[str, Any]] = TableAnswerer(recipe).answer(table).to_pylist()
    return rows


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Numbers, text and the like of nested JSON by where they stand; text that is JSON is read."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        value = json.loads(value)
    if isinstance(value, Mapping):
        parts = [leaves(part, f"{place}.{name}") for name, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [leaves(part, f"{place}[{number}]") for number, part in enumerate(value)]
    else:
        return {place: value}
    return {name: leaf for part in parts for name, leaf in part.items()}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], *, relative: float) -> dict[str, Any]:
    """Where two answers differ: place -> (what was expected, what was found)."""

    def alike(one: Any, other: Any) -> bool:
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=relative, abs_tol=1e-7)
        return bool(one == other)

    return {place: (one, found.get(place)) for place, one in expected.items() if not alike(one, found.get(place))}


def shorten(raw: Path, *, num_rows: int = NUM_ROWS) -> None:
    if raw.suffix == ".parquet":
        pq.write_table(pq.read_table(raw).slice(0, num_rows), raw)
