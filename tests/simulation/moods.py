"""What may become of a message upstream, by names that a script can say."""

from __future__ import annotations

from typing import Final

from tests.core.acquirer import APPROVES, DECLINES, SILENT_BOOKED, Mood, answers

MOODS: Final[dict[str, Mood]] = {
    "approve": APPROVES,
    "decline": DECLINES,
    "refuse": Mood(sent=False),
    "silent": SILENT_BOOKED,
    "lost": Mood(arrives=False, answers=False),
    "slow": Mood(after_ms=3_000),
    "slower": Mood(after_ms=9_000),
    "late": Mood(after_ms=20_000),
    "latest": Mood(after_ms=29_000),
    "late-decline": Mood(after_ms=20_000, books=False, code="51"),
    "late-unknown-booked": Mood(after_ms=20_000, code="ZZ"),
    "late-silent": Mood(after_ms=28_000, answers=False),
    "overdue": Mood(after_ms=45_000),
    "break": Mood(breaks=True, arrives=False, answers=False),
    "break-booked": Mood(breaks=True, answers=False),
    "break-late": Mood(breaks=True, after_ms=25_000, answers=False),
    "break-answer": Mood(breaks=True, after_ms=6_000),
    "mac": Mood(verified=False),
    "mac-decline": Mood(books=False, code="51", verified=False),
    "mac-lies-declined": Mood(code="51", verified=False),
    "mac-lies-approved": Mood(books=False, code="51", extra=((39, "00"),), verified=False),
    "mac-late": Mood(after_ms=20_000, verified=False),
    "other-amount": Mood(extra=((4, "000000000001"),)),
    "other-currency": Mood(extra=((49, "840"),)),
    "twice": Mood(twice=True),
    "twice-late": Mood(twice=True, after_ms=20_000),
    "code-96": answers("96"),
    "code-91-booked": answers("91", books=True),
    "code-68-booked": answers("68", books=True),
    "code-98-booked": answers("98", books=True),
    "code-09": answers("09"),
    "code-94": answers("94"),
    "code-30": answers("30"),
    "code-25": answers("25"),
    "code-77": answers("77"),
    "code-95": answers("95"),
    "code-A0": answers("A0"),
    "code-A0-booked": answers("A0", books=True),
    "code-none": answers(""),
    "code-none-booked": answers("", books=True),
    "code-unknown-booked": answers("ZZ", books=True),
    "code-10": Mood(code="10"),
    "denies": Mood(denies=True),
}
"""`books` where the acquirer takes the money whatever it says; `late` after the reply's time limit (15 s), but never
after the longest time in flight (30 s), but for an overdue request: that one is reversed by its late answer (D16)."""
