"""Response codes (field 39) as named sets: what a code means for what the gateway still owes.

Codes are compared whole, never by substring. The same code can mean different things for a request and for an advice
or a reversal, so each set says for which it holds. Which codes approve is the host's (`HostRules.approved_codes`).
"""

from __future__ import annotations

from typing import Final

APPROVED: Final = "00"
IN_PROGRESS: Final = "09"
NOT_ALLOWED: Final = "12"
ORIGINAL_UNKNOWN: Final = "25"
NOT_UNDERSTOOD: Final = "30"
NO_OUTCOME_IN_TIME: Final = "68"
BATCH_MISMATCH: Final = "77"
HOST_UNREACHABLE: Final = "91"
KEY_REUSED: Final = "94"
TOTALS_DIFFER: Final = "95"
OUR_FAULT: Final = "96"
BAD_MAC: Final = "A0"

REASON_NO_REPLY: Final = "98"
REASON_TERMINAL_FAULT: Final = "96"
REASON_BAD_MAC: Final = "A0"
REASON_OTHER: Final = "06"
"""The reasons of a UnionPay reversal, in its field 39 (D12)."""

APPROVALS: Final = frozenset({"00", "08", "10", "11", "16"})
"""Approve a request, where a host's profile does not say otherwise.

In full, with identification, in part, as VIP, with an update of track 3.
"""

_APPROVE_ELSEWHERE: Final = APPROVALS | {"A2", "A4", "A5", "A6"}
"""Approve at one host or another: where a host's profile does not have one among its approvals, it is no decline."""

REVERSAL_DONE: Final = frozenset({"00", "12", "25", "94"})
"""Answer to a reversal: nothing is owed any more (D13). 25 may also mean that it overtook its original."""

REVERSAL_PERHAPS_EARLY: Final = frozenset({"25"})
"""Answer to a reversal: the original was not there, or not there yet (D13: wait the original's time in flight)."""

ADVICE_TAKEN: Final = APPROVALS | {"94"}
"""Answer to an advice: the acquirer has it, now or from an earlier send (D18)."""

OUTCOME_UNKNOWN: Final = frozenset({"09", "68"})
"""Answer to a request: nobody knows yet; reverse or ask, never tell "declined" (D7, D11)."""

LOOK_UP_ORIGINAL: Final = frozenset({"94"})
"""Answer to a request: the host has had it before; its outcome counts, never "declined"."""

RETRY_LATER: Final = frozenset({"09", "68", "90", "91", "92", "96", "98"})
"""Answer to an advice or a reversal: still owed, send again after a while (D9, D18)."""

DEBIT_POSSIBLE: Final = frozenset({"91", "96", "98"})
"""Answer to a request: failed on the way, which is no proof that the card was not debited."""

POISON: Final = frozenset({"30"})
"""Answer to an advice: it will never be understood; park it for a person (D18)."""

SIGN_ON_FIRST: Final = frozenset({"77", "A0"})
"""Sign on again, then look: batch mismatch, or keys that differ. Never resend a request by itself."""

NOT_TAKEN_IN: Final = frozenset({"90", "92"}) | SIGN_ON_FIRST
"""Of those two: nothing was done with it, for a cut-off, for want of a route, or for another session or key. 91 and 96
are not among them: who says so may have done it, or may have handed it on."""

NO_WORD_OF_THE_FIRST: Final = LOOK_UP_ORIGINAL | NOT_TAKEN_IN | POISON | frozenset({"12", "25", "40", "95", "97"})
"""Answer to the repeat of a request: about this message, or this session. What became of its first send, which may be
booked, or may still be on its way, it does not say (D7, D11)."""

UPLOAD_FIRST: Final = frozenset({"95"})
"""Answer to a settlement: the totals differ; upload the batch (0320), then close."""

_TEXTS: Final[dict[str, str]] = {
    "00": "Approved",
    "01": "Refer to card issuer",
    "03": "Invalid merchant",
    "04": "Pick up card",
    "05": "Do not honour",
    "06": "Error",
    "08": "Approved with identification",
    "09": "In progress",
    "10": "Approved for a part",
    "11": "Approved (VIP)",
    "12": "Invalid transaction",
    "13": "Invalid amount",
    "14": "Invalid card number",
    "15": "No such issuer",
    "16": "Approved, update track 3",
    "19": "Enter the transaction again",
    "21": "No action taken",
    "22": "Suspected malfunction",
    "25": "Original not found",
    "30": "Message not understood",
    "31": "Bank not supported",
    "33": "Expired card, pick up",
    "34": "Suspected fraud, pick up",
    "36": "Restricted card, pick up",
    "38": "PIN tries exceeded, pick up",
    "40": "Function not supported",
    "41": "Lost card, pick up",
    "43": "Stolen card, pick up",
    "51": "Not sufficient funds",
    "52": "No cheque account",
    "53": "No savings account",
    "54": "Expired card",
    "55": "Incorrect PIN",
    "57": "Not permitted to cardholder",
    "58": "Not permitted to terminal",
    "59": "Suspected fraud",
    "61": "Exceeds amount limit",
    "62": "Restricted card",
    "63": "Security violation",
    "64": "Original amount incorrect",
    "65": "Exceeds count limit",
    "67": "Captured at terminal",
    "68": "No outcome in time",
    "75": "PIN tries exceeded",
    "77": "Batch mismatch, sign on",
    "79": "Offline data uploaded twice",
    "90": "Day's cut-off in progress",
    "91": "Issuer or host unreachable",
    "92": "Cannot be routed",
    "94": "Duplicate transaction",
    "95": "Totals differ",
    "96": "System malfunction",
    "97": "Terminal unknown",
    "98": "No answer from issuer",
    "99": "PIN format error",
    "A0": "MAC error, sign on",
    "A1": "Transfer currencies differ",
    "A2": "Approved, remark",
    "A3": "Transfer account unknown",
    "A4": "Approved, remark",
    "A5": "Approved, remark",
    "A6": "Approved, remark",
    "A7": "Security processing failed",
}


DECLINES: Final = frozenset(_TEXTS) - _APPROVE_ELSEWHERE
"""What a terminal is told that is told no. Any other code is handed on only where the host's profile approves it."""


def may_decline(code: str) -> bool:
    """Whether a code that a host's profile does not approve may be taken for a decline."""
    return code in DECLINES


def response_text(code: str) -> str:
    """A few English words for display."""
    return _TEXTS.get(code, "Unknown code")
