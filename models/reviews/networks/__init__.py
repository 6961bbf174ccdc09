"""The reviews family's networks, one file each."""
