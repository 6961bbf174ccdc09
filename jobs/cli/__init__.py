"""The command line: flags, the context of a verb, results and signals."""
