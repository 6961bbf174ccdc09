"""The report's sections: what the deep part adds, planted wrong labels, and texts that are quoted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.evaluation.baselines import fitted
from models.prepared import Prepared
from models.report import Table
from models.reviews import FAMILY
from models.reviews.report.sections import report, suspects
from models.reviews.schema import Schema
from tests.models.reviews.kit import prepared, scores_of, trained, written


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Clear reviews, of which every 50th has the wrong label."""
    root = tmp_path_factory.mktemp("report")
    texts = [f"{'really good, I love it' if n % 2 else 'bad, it broke'} number {n}" for n in range(600)]
    labels = [str(n % 2 if n % 50 else 1 - n % 2) for n in range(600)]
    columns = {"text": texts, "label": labels, "product_id": [f"p{n % 7}" for n in range(600)]}
    return prepared(root / "data", raw=str(written(root / "raw.parquet", columns)))


def test_planted_wrong_labels_are_listed_and_bound_the_accuracy(data: Prepared, tmp_path: Path) -> None:
    model = trained(data, tmp_path / "run", epochs=1, dim=16, num_buckets=4096)
    schema = data.schema(Schema)

    found = {one.title: one for one in report(model.network, data, "test", schema=schema, config=model.config)}

    assert list(found) == ["What the deep part adds", "Confident mistakes", "Likely wrong labels"]
    table = found["Likely wrong labels"].content[0]
    assert isinstance(table, Table)
    listed = {int(str(row[-1]).split()[-1]) for row in table.rows}
    assert len(listed) >= 3 and listed <= set(range(0, 600, 50))
    numbers = found["Likely wrong labels"].numbers
    assert numbers["estimated_ceiling"] == 1 - numbers["likely_wrong_labels"]
    assert 0.95 < numbers["estimated_ceiling"] < 1
    assert abs(found["What the deep part adds"].numbers["deep_gain"]) < 0.1


@pytest.mark.parametrize("name", list(FAMILY.baselines))
def test_baselines_are_fitted_as_promotion_does(data: Prepared, name: str) -> None:
    model = fitted(FAMILY, FAMILY.baselines[name], data)

    assert scores_of(model, data).value(FAMILY.metric) > (0.3 if name == "majority" else 0.9)


def test_a_label_is_suspect_where_another_class_is_as_sure_as_for_its_own_texts() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.3, 0.7], [0.1, 0.9], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 1, 1, 1])

    rows, instead = suspects(probabilities, labels)

    assert rows.tolist() == [2] and instead.tolist() == [1]
