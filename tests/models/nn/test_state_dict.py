"""Tensors with other names, missing ones and vectors of any length load, wherever their module is nested."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.nn.state_dict import default_on_load, rename_on_load, resize_on_load


class Renamed(nn.Module):
    """A module whose two parts had other names once."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        rename_on_load(self, {"pupil.": "student.", "reader.": "head."})


OLD_NAMES = {"student": "pupil", "head": "reader"}


def old_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict as the earlier release wrote it, with other numbers."""
    state = {}
    for name, value in module.state_dict().items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f"{new}.", f"{old}.")
        state[name] = value + 1
    return state


@pytest.mark.parametrize("module", [Renamed(), nn.Sequential(nn.Linear(2, 2), Renamed())])
def test_old_names_load_and_new_names_are_written(module: nn.Module) -> None:
    old, before = old_state(module), {name: value.clone() for name, value in module.state_dict().items()}
    assert set(old) != set(before)

    module.load_state_dict(old, strict=True)

    assert all(torch.equal(value, before[name] + 1) for name, value in module.state_dict().items())
    assert list(module.state_dict()) == list(before)


def test_new_names_load_as_before() -> None:
    module, other = Renamed(), Renamed()

    module.load_state_dict(other.state_dict(), strict=True)

    assert torch.equal(module.student.weight, other.student.weight)


def test_a_name_that_is_neither_old_nor_new_is_still_refused() -> None:
    module = Renamed()

    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({**old_state(module), "teacher.weight": torch.zeros(1)})


class Counted(nn.Module):
    """A module with a vector whose length depends on the data, and a number that old files lack."""

    def __init__(self, counts: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts)
        self.register_buffer("share", torch.tensor(0.5))
        resize_on_load(self, "counts")
        default_on_load(self, {"share": torch.tensor(0.25)})


@pytest.mark.parametrize("nested", [False, True])
def test_a_vector_has_the_length_and_type_of_the_file_and_a_missing_tensor_its_default(nested: bool) -> None:
    module, stored = Counted(torch.zeros(0)), Counted(torch.tensor([3, 1, 2])).state_dict()
    del stored["share"]

    if nested:
        nn.Sequential(module).load_state_dict({f"0.{name}": value for name, value in stored.items()})
    else:
        module.load_state_dict(stored)

    assert torch.equal(module.get_buffer("counts"), torch.tensor([3, 1, 2]))
    assert float(module.get_buffer("share")) == 0.25


def test_a_vector_that_is_not_in_the_file_is_still_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        Counted(torch.zeros(2)).load_state_dict({"share": torch.tensor(1.0)})
