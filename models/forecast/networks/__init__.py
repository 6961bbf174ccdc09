"""The forecast family's networks, one file each."""
