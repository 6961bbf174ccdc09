"""Tests of the forecast family."""
