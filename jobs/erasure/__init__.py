"""Erasure of users: prepared data, logs, copies, and the models that were trained with them."""
