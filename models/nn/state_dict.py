"""Loads state dicts whose tensors still carry the names of an earlier release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def rename_on_load(module: nn.Module, prefixes: Mapping[str, str]) -> None:
    """Let `module.load_state_dict` accept tensors by their former names: old prefix -> new prefix, dots included.

    Also works for a module nested in another one. Tensors with new names load unchanged; `state_dict` always has the
    new names.
    """

    def rename(_: nn.Module, state_dict: dict[str, Any], prefix: str, *_others: object) -> None:
        for old, new in prefixes.items():
            for name in [each for each in state_dict if each.startswith(prefix + old)]:
                state_dict[prefix + new + name.removeprefix(prefix + old)] = state_dict.pop(name)

    module.register_load_state_dict_pre_hook(rename)  # type: ignore[no-untyped-call]
