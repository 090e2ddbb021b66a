"""Speaks formats: bytes to values and back. No IO, no clock, no randomness, no logging.

The one exception looks at this installation's own files: compiled modules that are not of their sources do not load.
"""

from protocol.compiled import refuse_stale

refuse_stale()
