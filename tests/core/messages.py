"""Messages as terminals send them: one dialect that names originals by field 90, and UnionPay's."""

from __future__ import annotations

from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import HostRules, TerminalRules
from protocol.settlement import Detail, Totals, details_text, totals_text

VISA = "4111111111111111"
MASTERCARD = "5555555555554444"
UNIONPAY = "6212345678900000003"
MERCHANT = "MERCHANT0000001"

ISO = TerminalRules()
UNIONPAY_RULES: TerminalRules = load_dialect("unionpay").terminal
UNIONPAY_HOST: HostRules = load_dialect("unionpay").host


def sale(stan: int = 1, amount: int = 1_000, *, card: str = VISA, terminal: str = "TERM0001") -> Fields:
    """A sale that carries fields 7 and 13."""
    return {
        2: card, 3: "000000", 4: f"{amount:012}", 7: "1121120000", 11: f"{stan:06}", 13: "1121", 22: "012", 25: "00",
        41: terminal, 42: MERCHANT, 49: "156",
    }  # fmt: skip


def reversal(original: Fields, stan: int, *, mti: str = "0200") -> Fields:
    """The reversal of `original` under a STAN of its own, with field 90."""
    named = f"{mti}{original[11]}{original[7]}"
    return {**original, 11: f"{stan:06}", 90: named.ljust(42, "0")}


def unionpay_sale(stan: int = 1, amount: int = 1_000, *, batch: str = "000001") -> Fields:
    """A sale of a UnionPay terminal: batch number in 60.2, no field 7."""
    return {
        2: UNIONPAY, 3: "000000", 4: f"{amount:012}", 11: f"{stan:06}", 14: "3012", 22: "012", 25: "00",
        41: "TERM0001", 42: MERCHANT, 49: "156", 60: f"22{batch}000",
    }  # fmt: skip


def key(stan: int = 1, *, message_class: str = "2", terminal: str = "TERM0001") -> str:
    """The key of a `sale` (message class 2) or of a `reversal` (4)."""
    return f"D20251121|{MERCHANT}|{terminal}|{message_class}|{stan:06}"


def unionpay(number_60: str, stan: int, *, batch: str = "000001", **fields: str) -> Fields:
    """A UnionPay message that is no sale: field 60 is type, batch and network code, e.g. "00201" around the batch."""
    more = {int(name.removeprefix("f")): value for name, value in fields.items()}
    return {
        11: f"{stan:06}", 41: "TERM0001", 42: MERCHANT, 60: number_60[:2] + batch + number_60[2:], **more,
    }  # fmt: skip


def settlement(stan: int, totals: Totals, *, batch: str = "000001") -> Fields:
    """A 0500 with the totals of domestic cards."""
    return unionpay("00201", stan, batch=batch, f48=totals_text(totals), f49="156")


def upload(stan: int, *details: Detail, batch: str = "000001") -> Fields:
    """An 0320 with details."""
    return unionpay("00201", stan, batch=batch, f48=details_text(details))


def upload_end(stan: int, *, batch: str = "000001") -> Fields:
    """The 0320 that ends an upload."""
    return unionpay("00202", stan, batch=batch)


def unionpay_key(stan: int, *, message_class: str = "2", batch: str = "000001") -> str:
    """The key of a UnionPay terminal's message."""
    return f"B{batch}|{MERCHANT}|TERM0001|{message_class}|{stan:06}"
