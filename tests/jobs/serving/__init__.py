"""Tests of `jobs/serving`."""
