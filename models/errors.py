"""Errors: raw data that cannot be prepared, and model directories that cannot be loaded."""

from __future__ import annotations


class DataRejected(ValueError):
    """Raw data that cannot be prepared; the message names the value and the remedy."""


class BundleRejected(ValueError):
    """A directory that is damaged, of another family or not a model; the message names the file and the reason."""
