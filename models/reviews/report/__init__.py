"""The reviews family's metrics, slices and sections of an evaluation report."""
