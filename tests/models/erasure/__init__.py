"""Tests of the erasure of users."""
