"""The image family's sections of an evaluation report."""
