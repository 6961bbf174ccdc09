"""Tests of `serve.access`."""
