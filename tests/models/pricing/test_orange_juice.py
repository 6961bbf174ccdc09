"""Real prices and sales: orange juice of 11 brands in 83 stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.pricing.blend import r2
from models.pricing.design import design_of
from models.pricing.loglog import fit_loglog
from models.pricing.panel import Panel
from models.pricing.training import TrainingSettings, batch_of, fit_network
from models.pricing.tree import TreeSettings, fit_tree

pytestmark = pytest.mark.real
NUM_BRANDS = 11


@pytest.fixture(scope="module")
def juice(shared_data: Path) -> Panel:
    table = pq.read_table(shared_data / "orange_juice" / "oj_panel.parquet")
    columns = {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
    brand = columns["brand"].astype(np.int64) - 1
    stores, store = np.unique(columns["store"], return_inverse=True)
    prices = np.stack([columns[f"price{number + 1}"] for number in range(NUM_BRANDS)], axis=1)
    price = 64 * prices[np.arange(len(brand)), brand]
    return Panel(
        products=tuple(str(number) for number in range(NUM_BRANDS)),
        stores=tuple(str(number) for number in stores),
        row_product=brand,
        row_store=store.astype(np.int64),
        row_period=columns["week"].astype(np.int64) - 40,
        row_units=np.exp(columns["logmove"]) / 64,
        row_price=price,
        row_cost=price * (1 - columns["profit"] / 100),
        row_stock=np.full(len(brand), np.inf),
        row_promotion=np.stack([columns["deal"].astype(float), columns["feat"]], axis=1),
        row_signals=np.zeros((len(brand), 0)),
        product_group=np.zeros(NUM_BRANDS, np.int64),
        product_size=np.ones(NUM_BRANDS),
    )


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
