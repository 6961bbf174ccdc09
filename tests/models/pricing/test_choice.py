"""The blend is chosen on validation weeks where it wins, and never sees the weeks after them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from models.pricing.blend import Predictor
from models.pricing.choice import choose
from models.pricing.design import Design
from models.pricing.loglog import fit_loglog
from models.pricing.panel import Floats, Panel
from models.pricing.tree import TreeSettings, fit_tree
from tests.models.pricing.test_demand import two_stores

FOLDS = [(50, 60), (60, 70)]


def small_tree(rows: Design) -> Predictor:
    return fit_tree(rows, TreeSettings(num_trees=30))


@dataclasses.dataclass(frozen=True)
class Off:
    """Log-log with errors of its own, as another model would have."""

    inner: Predictor
    seed: int
    scale: float = 0.3

    def log_units(self, design: Design) -> Floats:
        noise: Floats = np.random.default_rng(self.seed).normal(0, self.scale, len(design.own))
        return self.inner.log_units(design) + noise


def panel() -> Panel:
    return two_stores(noise=0.2, periods=90)


def test_a_blend_of_models_with_errors_of_their_own_wins() -> None:
    found = choose(
        panel(),
        {"a": lambda rows: Off(fit_loglog(rows), 1), "b": lambda rows: Off(fit_loglog(rows), 2)},
        folds=FOLDS,
        end=80,
    )

    assert found.weights["a"] == pytest.approx(0.5, abs=0.15)
    assert found.validation["blend"][0] > max(found.validation[name][0] for name in "ab") + 0.02
    last = found.design.rows(found.design.period >= 80)
    mixed = sum(weight * found.models[name].log_units(last) for name, weight in found.weights.items())
    assert found.chosen.log_units(last) == pytest.approx(mixed)


def test_a_single_model_stays_alone_where_the_blend_does_not_win() -> None:
    fits: dict[str, Callable[[Design], Predictor]] = {
        "line": fit_loglog,
        "noise": lambda rows: Off(fit_loglog(rows), 1, scale=2.0),
    }

    found = choose(panel(), fits, folds=FOLDS, end=80)

    assert found.weights == {"line": 1.0, "noise": 0.0}
    assert set(found.validation) == {"line", "noise", "blend"}


def test_weeks_after_the_end_change_nothing() -> None:
    one = panel()
    late = one.row_period >= 80
    other = dataclasses.replace(one, row_units=np.where(late, one.row_units * 9, one.row_units))
    fits: dict[str, Callable[[Design], Predictor]] = {"line": fit_loglog, "tree": small_tree}

    before, after = (choose(of, fits, folds=FOLDS, end=80) for of in (one, other))

    assert before.validation == after.validation
    for name in fits:
        known = before.design.period < 80
        expected = before.models[name].log_units(before.design.rows(known))
        assert np.array_equal(expected, after.models[name].log_units(after.design.rows(known)))


@pytest.mark.parametrize("fold", [(0, 10), (60, 85), (200, 210)])
def test_a_fold_without_weeks_before_it_or_beyond_the_end_is_refused(fold: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"the fold of periods {fold[0]} to {fold[1] - 1}"):
        choose(panel(), {"line": fit_loglog}, folds=[fold], end=80)
