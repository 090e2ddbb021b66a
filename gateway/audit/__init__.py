"""Proves, offline and read-only, what a journal shows: for a person who trusts nobody here, and holds no key."""
