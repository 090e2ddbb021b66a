"""What an opened disclosure shows to a person: masked, unless all of it is asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from gateway.audit.disclosing import Opened
from protocol.iso8583.message import Fields
from protocol.masking import masked_fields

_WITHHELD = "withheld, {} characters; --full shows it"


class MessageShown(msgspec.Struct, frozen=True):
    """A message; its fields by number."""

    mti: str
    fields: dict[str, str]


class DisclosureShown(msgspec.Struct, frozen=True, kw_only=True):
    """A disclosure that passed every check.

    Attributes:
        checked: what was checked, in words.
        signature_checked: whether a verifier key was named; else the checkpoint may be anybody's.
        full: whether nothing is masked.
        disclosed_in: entry that tells of the disclosure, as the document says.
    """

    origin: str
    sequence: int
    transaction: int
    time: str
    part: str
    checked: list[str]
    signature_checked: bool
    size: int
    disclosed_in: int
    full: bool
    request: MessageShown | None
    answer: MessageShown | None
    sensitive: dict[str, str] | None


def shown(opened: Opened, *, full: bool) -> DisclosureShown:
    """In words and values."""

    def message(mti: str, fields: Fields) -> MessageShown:
        told = fields if full else masked_fields(fields)
        return MessageShown(mti, {str(number): told[number] for number in sorted(told)})

    sensitive = opened.sensitive
    if sensitive is not None and not full:
        # A masked track shows its card number's ends; of a PIN block, a CVV or chip data there is nothing to show.
        tracks = masked_fields({number: value for number, value in sensitive.items() if number in (35, 36, 45)})
        sensitive = {number: tracks.get(number, _WITHHELD.format(len(value))) for number, value in sensitive.items()}
    checked = [
        "the ciphertext is the one that the entry commits to",
        "the key is the one that the entry commits to",
        f"the entry is number {opened.disclosure.sequence} of the {opened.checkpoint.size} under the checkpoint's root",
    ]
    if opened.signed:
        checked.append(f"the checkpoint is signed by the key of {opened.checkpoint.origin}")
    return DisclosureShown(
        origin=opened.checkpoint.origin,
        sequence=opened.disclosure.sequence,
        transaction=opened.entry.transaction,
        time=datetime.fromtimestamp(opened.entry.time_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        part=opened.disclosure.part,
        checked=checked,
        signature_checked=opened.signed,
        size=opened.checkpoint.size,
        disclosed_in=opened.disclosure.disclosed_in,
        full=full,
        request=None if opened.request is None else message(opened.request.mti, opened.request.fields),
        answer=None if opened.answer is None else message(opened.answer.mti, opened.answer.fields),
        sensitive=None if sensitive is None else {str(number): sensitive[number] for number in sorted(sensitive)},
    )


def lines_of(told: DisclosureShown) -> list[str]:
    """The same, line by line."""
    lines = [f"{told.origin}, entry {told.sequence} of {told.time}, transaction {told.transaction}: {told.part} part"]
    lines += [f"checked: {each}" for each in told.checked]
    if not told.signature_checked:
        lines.append(
            "NOT CHECKED: who signed the checkpoint; --verifier-key names the log's key, which you have from elsewhere"
        )
    for name, message in (("request", told.request), ("answer", told.answer)):
        if message is not None:
            lines.append(f"{name} {message.mti}")
            lines += [f"  {number:>3}  {value}" for number, value in message.fields.items()]
    if told.sensitive is not None:
        lines.append("sensitive fields")
        lines += [f"  {number:>3}  {value}" for number, value in told.sensitive.items()]
    return lines
