"""Tests of lists of prices."""
