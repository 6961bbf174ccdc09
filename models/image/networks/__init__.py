"""The image family's networks, one file each; `build` picks one."""
