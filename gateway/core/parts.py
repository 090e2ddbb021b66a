"""Parts of a terminal's message, read and checked: what is wrong is answered 30, and nothing of it is stored."""

from __future__ import annotations

from typing import Final

from protocol.iso8583.message import Fields
from protocol.iso8583.rules import TerminalRules

_IDENTIFIER_MAX: Final = 40
"""Characters of a terminal's or merchant's id: a key must fit into a journal entry."""


class BadRequest(Exception):
    """The terminal's message cannot be taken: answer `code`, store nothing.

    Attributes:
        code: field 39 of the answer.
        reason: what is wrong, without values.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} (answer {code})")
        self.code = code
        self.reason = reason


def all_digits(text: str) -> bool:
    """Whether a text is digits 0 to 9 and nothing else; an empty one is not."""
    return text.isascii() and text.isdecimal()


def part(fields: Fields, number: int, start: int, length: int) -> str:
    """Some digits of a field; empty where the message has no such."""
    return fields.get(number, "")[start : start + length]


def identifier(text: str, number: int, *, required: bool) -> str:
    """The id of a terminal or merchant, without the blanks around it in its field. Raises: BadRequest."""
    text = text.strip()
    if not text and required:
        raise BadRequest("30", f"field {number} is missing")
    if len(text) > _IDENTIFIER_MAX:
        raise BadRequest("30", f"field {number} is longer than {_IDENTIFIER_MAX} characters")
    if "|" in text or not text.isprintable():
        raise BadRequest("30", f"field {number} holds a character that an identifier cannot have")
    return text


def digits(fields: Fields, number: int, length: int) -> str:
    """A field of so many digits. Raises: BadRequest."""
    text = fields.get(number, "")
    if len(text) != length or not text.isdecimal() or not text.isascii():
        raise BadRequest("30", f"field {number} must have {length} digits" if text else f"field {number} is missing")
    return text


def batch_number(fields: Fields, rules: TerminalRules) -> str:
    """The batch that a message names; empty where it names none. Raises: BadRequest."""
    start, length = rules.batch_start, rules.batch_length
    text = fields.get(rules.batch_field, "")[start : start + length]
    if len(text) != length:
        return ""
    if not all_digits(text):
        raise BadRequest("30", f"the batch number in field {rules.batch_field} must be digits")
    return text


def network_code(fields: Fields, rules: TerminalRules) -> str:
    """What a network message or an upload is about; empty where it does not say."""
    return part(fields, rules.network_field, rules.network_start, rules.network_length)
