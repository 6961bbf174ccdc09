"""Live items: what a shop says of its items between two trainings, in a store of its own."""
