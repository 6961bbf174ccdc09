"""The service: one deployment class that works on any family."""
