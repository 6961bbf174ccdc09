"""Tests of the cluster a verb works on."""
