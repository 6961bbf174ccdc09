"""Tests of what networks share."""
