"""Keyed hashes: what stands for a card, and what a retry must have in common with its first sending (D2)."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.transaction import UploadedDetail
from protocol.hmac_sha256 import HmacSha256
from protocol.settlement import Totals


class KeyedHash:
    """Hashes of card data under a key of their own, so that no list of all PANs can undo them (D2).

    HMAC-SHA256, the first 16 bytes. The two uses are kept apart by a prefix.
    """

    __slots__ = ("_digest_of",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("the fingerprint key has 32 bytes")
        self._digest_of = HmacSha256(key).digest

    def fingerprint(self, pan: str, amount_minor: int, currency: str, processing_code: str) -> bytes:
        """What a retry must have in common with its first sending (D2)."""
        return self._digest(f"fingerprint|{pan}|{amount_minor}|{currency}|{processing_code}")

    def totals(self, totals: Totals) -> bytes:
        """What a retry of a settlement must have in common with its first sending."""
        return self._digest(f"totals|{totals}")

    def details(self, details: Sequence[UploadedDetail]) -> bytes:
        """The same for what a terminal uploads of its batch."""
        return self._digest("details|" + "|".join(f"{d.stan},{d.amount_minor},{d.card.hex()}" for d in details))

    def card(self, pan: str) -> bytes:
        """What stands for a card in exposure counters and hot-card lists (D21); empty without a PAN."""
        return self._digest(f"card|{pan}") if pan else b""

    def _digest(self, text: str) -> bytes:
        # "surrogatepass": text of a hostile JSON body must not raise here.
        return self._digest_of(text.encode("utf-8", "surrogatepass"))[:16]
