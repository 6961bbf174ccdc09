"""Loads state dicts whose tensors have other names, are missing, as in earlier releases, or have any length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def rename_on_load(module: nn.Module, prefixes: Mapping[str, str]) -> None:
    """Let `module.load_state_dict` accept the old names of renamed submodules: old -> new prefix, each with its dot.

    Also works for a module nested in another one. Tensors with new names load unchanged; `state_dict` always has the
    new names.
    """

    def rename(_: nn.Module, state_dict: dict[str, Any], prefix: str, *_others: object) -> None:
        for old, new in prefixes.items():
            for name in [each for each in state_dict if each.startswith(prefix + old)]:
                state_dict[prefix + new + name.removeprefix(prefix + old)] = state_dict.pop(name)

    module.register_load_state_dict_pre_hook(rename)  # type: ignore[no-untyped-call]


def default_on_load(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Let `module.load_state_dict` accept state dicts without some tensors: name -> what it then loads."""

    def add(_: nn.Module, state_dict: dict[str, Any], prefix: str, *_others: object) -> None:
        for name, value in values.items():
            state_dict.setdefault(prefix + name, value.clone())

    module.register_load_state_dict_pre_hook(add)  # type: ignore[no-untyped-call]


def resize_on_load(module: nn.Module, *names: str) -> None:
    """Let `module.load_state_dict` accept vectors of any length under these names of buffers.

    For counts of a log: only the file says how many there are.
    """

    def resize(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *_others: object) -> None:
        for name in names:
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(owner, name, getattr(owner, name).new_zeros(len(stored), dtype=stored.dtype))

    module.register_load_state_dict_pre_hook(resize)  # type: ignore[no-untyped-call]
