"""Tests of events and the stores that keep them."""
