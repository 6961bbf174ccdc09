"""Tensors that an earlier release named otherwise: they load under their new names, wherever the module sits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.nn.state_dict import rename_on_load


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
