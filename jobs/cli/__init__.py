"""The command line: flags, what every verb is handed, results and signals."""
