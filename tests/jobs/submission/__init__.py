"""Tests of `jobs.submission`."""
