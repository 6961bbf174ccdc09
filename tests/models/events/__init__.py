"""Tests of `models.events`."""
