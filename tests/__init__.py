"""Tests of the models, the jobs and the service; they mirror the packages they test."""
