"""Lists of prices as units that a person approves, applies and takes back; and the prices that hold now."""
