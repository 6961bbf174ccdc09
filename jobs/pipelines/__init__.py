"""Pipelines: the steps of a YAML file, each a verb, run as one unit that can be repeated and resumed."""
