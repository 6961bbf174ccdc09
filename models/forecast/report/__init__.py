"""The forecast family's sections of an evaluation report."""
