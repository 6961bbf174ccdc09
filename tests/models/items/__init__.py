"""Tests of `models/items`."""
