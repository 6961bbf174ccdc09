"""Tests of runs and what tracks them."""
