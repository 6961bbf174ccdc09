"""The toy family: short, and learnable."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.kit.toy
from models.family import Dataset, Family
from models.prepared import Prepared


def test_a_family_fits_into_130_lines_of_code() -> None:
    source = Path(tests.kit.toy.__file__).read_text(encoding="utf-8")
    written = {number for number, text in enumerate(source.splitlines(), 1) if text.strip()}
    docstrings = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    assert len(written - docstrings) < 130


@pytest.mark.parametrize("network", ["linear", "hidden"])
def test_the_toy_beats_its_baseline(toy: Family, toy_data: Prepared, network: str) -> None:
    trained = _accuracy_after(60, network, toy, toy_data)
    assert trained > 0.8
    assert _accuracy_after(0, "majority", toy, toy_data) < 0.6


def _accuracy_after(steps: int, name: str, toy: Family, data: Prepared) -> float:
    schema = data.schema(toy.Schema)
    config = toy.Config(network=name)
    torch.manual_seed(0)
    network = toy.build(config, schema)
    toy.initialise(network, data, schema)
    train, test = (
        _batch(toy.dataset(data, split, range(4), schema=schema, config=config, epoch=0)) for split in ("train", "test")
    )
    for _ in range(steps):
        loss = toy.loss(network, train)
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data.sub_(gradient)
    ratio = toy.evaluate(network, test).ratios["accuracy"]
    return float(ratio.numerator.sum() / ratio.denominator.sum())


def _batch(dataset: Dataset[Any]) -> Tensor:
    return tests.kit.toy.collate([dataset[row] for row in range(len(dataset))])
