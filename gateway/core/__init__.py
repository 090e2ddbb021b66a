"""Decides. Plain synchronous Python: events in, effects out; no IO, clock or randomness of its own."""
