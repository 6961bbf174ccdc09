"""What the science refuses: raw data that cannot be prepared, models that cannot be loaded, packages of others."""

from __future__ import annotations


class DataRejected(ValueError):
    """Raw data that cannot be prepared; the message names the value and the remedy."""


class BundleRejected(ValueError):
    """A model directory that is damaged, foreign or not ours; the message says which file and why."""


class PluginRejected(ValueError):
    """A family or network of another package that is not there or cannot be used; the message names the package."""
