"""Tests of the science of prices."""
