"""Networks of demand."""
