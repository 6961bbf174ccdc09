"""Tests of the image family."""
