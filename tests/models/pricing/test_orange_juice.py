"""Real prices and sales: orange juice of 11 brands in 83 stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pricing.data import NUM_BRANDS, orange_juice
from models.pricing.blend import r2
from models.pricing.design import design_of
from models.pricing.loglog import fit_loglog
from models.pricing.panel import Panel
from models.pricing.training import TrainingSettings, batch_of, fit_network
from models.pricing.tree import TreeSettings, fit_tree

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def juice(shared_data: Path) -> Panel:
    return orange_juice(shared_data / "orange_juice" / "oj_panel.parquet")


def test_models_of_orange_juice_explain_held_out_weeks_and_never_rise_with_the_own_price(juice: Panel) -> None:
    is_test = juice.row_period >= 97
    design = design_of(juice, ~is_test)
    train, test = design.rows(~is_test), design.rows(is_test)
    assert len(test.own) == 21_054

    line = fit_loglog(train, shrink_by=np.zeros(NUM_BRANDS, np.int64))
    tree = fit_tree(train, TreeSettings(num_trees=60, learning_rate=0.15))
    net = fit_network(train, TrainingSettings(epochs=1))

    assert (line.elasticity < -1).all()
    for model, least in ((line, 0.75), (tree, 0.72), (net, 0.70)):
        assert r2(test.log_units, model.log_units(test)) > least
    with torch.inference_mode():
        rows = np.array_split(np.arange(len(design.own)), 8)
        slope = torch.cat([net.network.elasticity(batch_of(design, part)) for part in rows])
    assert len(slope) == 106_139 and bool((slope < 0).all())
    before = None
    for change in np.log([0.7, 0.85, 1.0, 1.1]):
        logs = tree.log_units(design.at(design.own + change))
        assert before is None or (logs <= before + 1e-12).all()
        before = logs
