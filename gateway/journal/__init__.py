"""Remembers. One port with a written contract (port.py); SQLite is the default behind it."""
