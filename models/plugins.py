"""Plugins: families and networks of other packages, found by their entry points and loaded on demand.

A package in the same environment declares them in its pyproject.toml:

    [project.entry-points."shopkeeper.families"]
    pricing = "my_shop.pricing:FAMILY"

    [project.entry-points."shopkeeper.networks"]
    "recommender.mine" = "my_shop.networks:build_mine"
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import sys
from collections.abc import Callable, Container, Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from models.errors import PluginRejected

if TYPE_CHECKING:
    from models.family import Family

FAMILIES_GROUP = "shopkeeper.families"
"""Group of the entry points: family name -> module:attribute, a `Family` of that name."""
NETWORKS_GROUP = "shopkeeper.networks"
"""Group of the entry points: family.network -> module:attribute, a function (config, schema) for `build`."""

log = logging.getLogger("shopkeeper")

_OWN_NETWORKS: dict[str, tuple[str, ...]] = {}
"""Networks of the families that accept networks of other packages, which cannot replace them."""


def other_families(own: Container[str]) -> dict[str, Family]:
    """Families of other packages by name, none called like `own`; logs a warning for one that is unusable."""
    entries = _entries(FAMILIES_GROUP)
    if not entries:
        return {}
    from models.family import Family  # it imports torch

    families = dict[str, Family]()
    for entry in entries:
        try:
            family = _load(entry)
            if not isinstance(family, Family):
                raise PluginRejected(f"{_label(entry)} is a {type(family).__name__}, not a Family")
            if family.name != entry.name:
                raise PluginRejected(f"{_label(entry)} is called {family.name!r}; name the entry point like the family")
            if family.name in own or family.name in families:
                raise PluginRejected(f"{_label(entry)} is left out: there is a family of that name already; rename it")
        except PluginRejected as error:
            log.warning("%s", error)
        else:
            families[family.name] = family
    return families


def network_names(family: str, own: Sequence[str]) -> tuple[str, ...]:
    """The choices of a family's --network: its own networks, then those of other packages, without loading any."""
    _OWN_NETWORKS[family] = tuple(own)
    names = list(own)
    for entry in _entries(NETWORKS_GROUP):
        of, _, name = entry.name.partition(".")
        if of == family and name in names:
            log.warning("%s is left out: there is a network of that name already; rename it", _label(entry))
        elif of == family:
            names.append(name)
    return tuple(names)


def network_of(family: str, network: str) -> Callable[[Any, Any], Any]:
    """The function (config, schema) of a network from another package; raises PluginRejected."""
    entry = _network_entry(family, network)
    if entry is None:
        raise PluginRejected(f"unknown network {network!r}; see the choices of --network")
    function: Callable[[Any, Any], Any] = _load(entry)
    return function


def require(network: Any, *members: str, of: str) -> None:
    """Raise PluginRejected if a network from another package is not a torch module or lacks one of `members`."""
    missing = [name for name in ("parameters", "forward", *members) if not hasattr(network, name)]
    if missing:
        raise PluginRejected(f"the network {of!r} made a {type(network).__name__} without {', '.join(missing)}")


def origin(family: str, network: str) -> str | None:
    """The package of a network as a pip requirement, `my-shop==1.2`; None for one of the family's own."""
    entry = _network_entry(family, network)
    return None if entry is None else f"{_package(entry)}=={entry.dist.version if entry.dist else ''}"


def _network_entry(family: str, network: str) -> EntryPoint | None:
    if network in _OWN_NETWORKS.get(family, (network,)):
        return None
    return next((entry for entry in _entries(NETWORKS_GROUP) if entry.name == f"{family}.{network}"), None)


@functools.cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    """Entry points of all packages, in an order that does not depend on their location."""
    found = importlib.metadata.entry_points(group=group)
    return tuple(sorted(found, key=lambda entry: (entry.name, _package(entry), entry.value)))


def _load(entry: EntryPoint) -> Any:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # another package may fail in any way, even exit, and must not affect the rest
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginRejected(
            f"{_label(entry)} cannot be loaded: {reason}; correct or uninstall {_package(entry)}"
        ) from error


def _label(entry: EntryPoint) -> str:
    kind = "family" if entry.group == FAMILIES_GROUP else "network"
    return f"the {kind} {entry.name!r} of the package {_package(entry)} ({entry.value})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "unknown"
