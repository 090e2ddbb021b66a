"""Checks what needs two people: a key that was destroyed, a record that was disclosed or settled.

The entry that tells of such an act holds what two people have signed (gateway/operations/approvals.py, which this does
not trust and does not use), and an entry before it tells who may: a list of names and public keys. Both signatures are
verified under that list. So neither whoever can edit the configuration, nor whoever can edit the files beside the
keyring, can act in the names of two people without this showing.

Of epochs of sensitive data the gateway destroys the keys by itself; for that nobody signs.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.audit.damage import Damage, Findings
from gateway.core.lifecycle import EntryKind

_BY_ITSELF: Final = ("gateway", "sensitive-epoch")


class _Key(msgspec.Struct, frozen=True):
    key: int
    purpose: str


class _KeyEvent(msgspec.Struct, frozen=True):
    what: str
    who: str
    keys: list[_Key] = []
    evidence: dict[str, Any] = {}
    facts: dict[str, str] = {}


class _Disclosed(msgspec.Struct, frozen=True):
    part: str
    entry: int
    transaction: int
    who: str
    evidence: dict[str, Any] = {}


class _Settled(msgspec.Struct, frozen=True):
    transaction: int
    who: str
    evidence: dict[str, Any] = {}


class _Request(msgspec.Struct, frozen=True):
    id: str
    gateway: str
    action: str
    subject: str
    who: str
    why: str
    asked_ms: int
    expires_ms: int


class _Evidence(msgspec.Struct, frozen=True):
    request: _Request
    asking: str
    approver: str
    approving: str


@dataclass(frozen=True, slots=True)
class _Act:
    sequence: int
    what: str
    action: str
    subject: str
    who: str
    evidence: dict[str, Any]


@dataclass(slots=True)
class ApprovalChecks:
    """Takes the entries about keys and disclosures in order.

    Attributes:
        keyring: name of the journal's keyring: what was signed for another gateway says nothing here. Empty where it
            cannot be read.
        start: size from which on entries are taken; who might approve before that is not known.
    """

    findings: Findings
    keyring: str
    start: int = 0
    _approvers: dict[str, str] | None = None
    _unproved: list[tuple[_Act, str]] = field(default_factory=list)

    def take(self, sequence: int, kind: int, detail: str) -> None:
        """Check one entry of kind KEY, DISCLOSED or DAMAGE_SETTLED."""
        try:
            act = self._act_of(sequence, kind, detail)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._tell(sequence, "what it says of keys, a disclosure or a settlement cannot be read")
            return
        if act is not None and (why := self._why_not(act)):
            self._unproved.append((act, why))

    def finish(self) -> None:
        """All entries were taken.

        A list that a full disk held up may follow what was approved under it; then it is in the log all the same.
        """
        for act, why in self._unproved:
            self._tell(act.sequence, f"{act.what} is not approved by two people: {why}")
        self._unproved.clear()

    def _act_of(self, sequence: int, kind: int, detail: str) -> _Act | None:
        """What needs two people; None where the entry tells of nothing such."""
        if kind == EntryKind.DISCLOSED:
            told = msgspec.json.decode(detail, type=_Disclosed)
            subject = f"{told.part} part of entry {told.entry}, transaction {told.transaction}"
            return _Act(sequence, f"the disclosure of the {subject}", "disclose", subject, told.who, told.evidence)
        if kind == EntryKind.DAMAGE_SETTLED:
            done = msgspec.json.decode(detail, type=_Settled)
            subject = f"damaged record {done.transaction}"
            return _Act(sequence, f"the settlement of {subject}", "settle-damaged", subject, done.who, done.evidence)
        event = msgspec.json.decode(detail, type=_KeyEvent)
        if event.what == "approvers":
            self._approvers = event.facts
            self._unproved = [each for each in self._unproved if self._why_not(each[0])]
        if event.what != "destroyed" or (event.who, *(each.purpose for each in event.keys)) == _BY_ITSELF:
            return None
        subject = ", ".join(f"key {each.key}" for each in event.keys)
        return _Act(sequence, f"the destruction of {subject}", "destroy-key", subject, event.who, event.evidence)

    def _why_not(self, act: _Act) -> str:
        """Why what two people have signed does not allow an act; empty where it does, or that cannot be known."""
        try:
            said = msgspec.convert(act.evidence, _Evidence)
        except msgspec.ValidationError:
            return "it does not hold what two people have signed"
        asked = said.request
        if (asked.action, asked.subject, f"{asked.who}, {said.approver}") != (act.action, act.subject, act.who):
            return f"what was signed is about {asked.action} {asked.subject}, by {asked.who} and {said.approver}"
        if self.keyring and asked.gateway != self.keyring:
            return f"what was signed is for keyring {asked.gateway}, this is {self.keyring}"
        if self._approvers is None:
            return "" if self.start else "no entry before it tells who may approve"
        keys = [self._approvers.get(name) for name in (asked.who, said.approver)]
        if asked.who == said.approver or keys[0] == keys[1]:
            return "it was one person"
        for act_name, name, key, signature in (
            ("ask", asked.who, keys[0], said.asking),
            ("approve", said.approver, keys[1], said.approving),
        ):
            if key is None:
                return f"{name} is none of the approvers that the log tells of"
            if not _signed(key, signature, _text(act_name, asked, name)):
                return f"the signature is not one of {name}'s key, as the log tells it"
        return ""

    def _tell(self, sequence: int, text: str) -> None:
        self.findings.add(Damage.APPROVAL, text, sequence=sequence)


def _text(act: str, request: _Request, signer: str) -> bytes:
    lines = (
        "holdfast approval v1", act, signer, request.gateway, request.id, request.action, request.subject,
        request.who, request.why, str(request.asked_ms), str(request.expires_ms), "",
    )  # fmt: skip
    return "\n".join(lines).encode()


def _signed(key: str, signature: str, text: bytes) -> bool:
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        public.verify(base64.b64decode(signature, validate=True), text)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True
