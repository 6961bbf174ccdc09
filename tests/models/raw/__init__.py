"""Tests of reading raw data."""
