"""Speaks formats: bytes to values and back. No IO, no clock, no randomness, no logging."""
