"""The live catalogue: items that are new, changed or withdrawn since the data was prepared."""
