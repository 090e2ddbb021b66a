"""The journal's fixtures, for the checks of it that stand here."""

from __future__ import annotations

from tests.journal.conftest import _close_what_a_test_leaves_open, keyring, rig

__all__ = ["_close_what_a_test_leaves_open", "keyring", "rig"]
