"""Safeguards outside the core, each taken away once to show that a check notices (see README.md of the tests)."""
