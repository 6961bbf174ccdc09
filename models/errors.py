"""What the science refuses: raw data that cannot be prepared and model directories that cannot be loaded."""

from __future__ import annotations


class DataRejected(ValueError):
    """Raw data that cannot be prepared; the message names the value and the remedy."""


class BundleRejected(ValueError):
    """A model directory that is damaged, foreign or not ours; the message says which file and why."""
