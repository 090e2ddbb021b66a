"""No card data lies outside ciphertext, in any of the journal's files (INV-8)."""

from __future__ import annotations

from pathlib import Path

from gateway.core.lifecycle import State
from gateway.core.transaction import Answer
from tests.journal.conformance import loaded
from tests.journal.rig import PAN, TRACK, Rig, evolved, sale


def forms(text: str) -> list[bytes]:
    """As text, in both nibble orders of BCD, and as hex of the text."""
    digits = text.replace("=", "d")
    digits += "f" * (len(digits) % 2)
    swapped = "".join(digits[n + 1] + digits[n] for n in range(0, len(digits), 2))
    return [text.encode(), bytes.fromhex(digits), bytes.fromhex(swapped), text.encode().hex().encode()]


def test_no_card_number_or_track_lies_in_any_file_of_the_journal(tmp_path: Path, rig: Rig) -> None:
    for n in range(40):
        state = State.ASKING if n % 2 else State.STORED
        rig.write(sale(f"k|{n:06}", state=state, sensitive={35: TRACK}, answer=Answer("0210", {2: PAN, 39: "00"})))
    for n in range(1, 20):
        rig.write(evolved(loaded(rig, n).transaction, State.APPROVED, answer=Answer("0210", {2: PAN})))
    copies = {path.name: path.read_bytes() for path in tmp_path.glob("journal.db*")}  # with the log still full
    assert {"journal.db", "journal.db-wal", "journal.db.lock"} <= set(copies)
    rig.close()
    copies |= {path.name + " closed": path.read_bytes() for path in tmp_path.glob("journal.db*")}
    for name, content in copies.items():
        for secret in (PAN, TRACK):
            for form in forms(secret):
                assert form not in content, f"{name} shows card data"
    assert len(copies["journal.db closed"]) > 40 * 500


def test_no_key_lies_in_the_database(tmp_path: Path, rig: Rig, keyring: object) -> None:
    rig.write(sale(sensitive={35: TRACK}))
    rig.close()
    content = (tmp_path / "journal.db").read_bytes()
    for key in keyring.keys.values():  # type: ignore[attr-defined]
        assert key not in content
        assert key.hex().encode() not in content
