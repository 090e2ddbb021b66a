"""How keys are told to operators: the JSON of the API and of `--json`. No secret is in it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.journal.key_wrapping import KeyEncryptionKey
from gateway.journal.keyring import Keyring
from gateway.operations.approvals import Kept


class KeyReport(msgspec.Struct, frozen=True, kw_only=True):
    """One key as operators see it; times UTC in milliseconds, 0 for never."""

    id: int
    purpose: str
    state: str
    created_ms: int
    retired_ms: int
    destroyed_ms: int
    last_sequence: int
    check: str


class KeysReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `holdfast keys list` shows; `untold` events wait for their entry in the journal."""

    keyring: str
    key_encryption_key: str
    keys: list[KeyReport]
    requests: list[Kept]
    untold: int


def keys_report(keyring: Keyring, kek: KeyEncryptionKey | None, folder: Path, waiting: list[Kept]) -> KeysReport:
    """A keyring as operators see it."""
    return KeysReport(
        keyring=keyring.name,
        key_encryption_key=f"file in {folder}" if kek is None else kek.name,
        keys=[
            KeyReport(
                id=record.id,
                purpose=record.purpose.value,
                state=keyring.state(record).value,
                created_ms=record.created_ms,
                retired_ms=record.retired_ms,
                destroyed_ms=record.destroyed_ms,
                last_sequence=record.last_sequence,
                check=record.check,
            )
            for _, record in sorted(keyring.records.items())
        ],
        requests=waiting,
        untold=len(keyring.untold),
    )
