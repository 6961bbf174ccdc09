"""Reading raw data, for every family: tables as streams of rows, and a quarantine for bad rows."""
