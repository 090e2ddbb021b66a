"""Between messages and a host's JSON: what a mapping file means, as pure functions without IO or clock.

The form of a file is described in `mapping_file`.

What an HTTP answer proves:

    status                    | and                                        | then
    --------------------------+--------------------------------------------+------------------------------------------
    2xx                       | the body gives field 39, and every match   | an answer
                              | field that it names is the message's own   |
    2xx                       | anything else                              | no proof: in doubt
    named under [status]      | a code                                     | an answer with that code in field 39
    named under [status]      | "answer": the body as for 2xx, but not an  | an answer
                              | approval                                   |
    named "in doubt", or none | whatever                                   | no proof: in doubt
    of a probe: not 2xx       | whatever                                   | no proof: in doubt

So a status that nobody has thought of never becomes a decline (D6, D7), and none but 2xx an approval.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.acquirers.bounded_json import BadJson, read_json
from gateway.acquirers.mapping_values import JsonValue, Path, Slot, ValueMistake, at, put
from gateway.core.effects import Purpose
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import first_mti
from protocol.iso8583.rules import HostRules, OriginalForm

IN_DOUBT: Final = "in doubt"
AS_ANSWER: Final = "answer"
_JSON_TYPES: Final = ("application/json", "text/json")


class UnmappableMessage(ValueError):
    """A message cannot be said in the host's terms. The text names fields, never values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A message in the host's terms.

    Attributes:
        key: value of the Idempotency-Key; empty where the message has none.
        body: None where the method carries none.
    """

    method: str
    path: str
    key: str
    body: bytes | None = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """What the request counts against limits."""
        return len(self.body or b"") + len(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """What a host replied, within its limits. `content_type` is without parameters and in lower case."""

    status: int
    content_type: str
    body: bytes = field(repr=False)


class DoubtKind(StrEnum):
    """Why a reply proves nothing."""

    STATUS = "status"
    UNREADABLE = "unreadable"
    UNMATCHED = "unmatched"


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reply that proves nothing, and why: out of a small set of reasons, without values."""

    kind: DoubtKind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """How one type of message is sent, and its answer read.

    Attributes:
        constants: values that are the same in every request, by path.
        answer_constants: fields that are the same in every answer, by number; the body is read only for others.
        key_path: where the body carries the Idempotency-Key as well; empty for nowhere.
        original_key_path: where a reversal carries the key of its original; empty for nowhere.
    """

    method: str
    path: str
    slots: tuple[Slot, ...] = ()
    constants: tuple[tuple[Path, JsonValue], ...] = ()
    answer: tuple[Slot, ...] = ()
    answer_constants: Mapping[int, str] = field(default_factory=dict)
    key_path: Path = ()
    original_key_path: Path = ()


_BUSINESSES: Final = {"1": frozenset({"00", "03"}), "2": frozenset({"00"})}
"""First two digits of field 3 that a message type means by itself, by the type's class: sales, and holds by 01xx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpMapping:
    """A host that speaks JSON, in the gateway's terms: the counterpart of a dialect.

    Attributes:
        key_header: the header of the Idempotency-Key.
        operations: by MTI of the first send, such as "0200" for a sale; with the first two digits of field 3 for other
            businesses, such as "0200/20" for a void.
        probe: how the host is asked whether it is there.
        statuses: HTTP status, or 4 and 5 for all others that begin so, to a code, AS_ANSWER or IN_DOUBT.
        host: habits of the host, as in a dialect.
    """

    name: str
    key_header: str
    operations: Mapping[str, Operation]
    probe: Operation
    statuses: Mapping[int, str]
    host: HostRules

    @property
    def answers_name_their_payment(self) -> bool:
        """Whether every answer gives all match fields back.

        Only then may a connection be used again: a stray answer that a host sends behind another one would else be
        taken for the next payment's.
        """
        match = set(self.host.match_fields)
        return all(match <= {slot.number for slot in one.answer if slot.required} for one in self.operations.values())

    def unencodable(self, message: Message) -> str:
        """Why a message cannot be sent to this host; empty when it can."""
        try:
            self.request(message, Purpose.REQUEST)
        except UnmappableMessage as error:
            return str(error)
        return ""

    def request(self, message: Message, purpose: Purpose) -> HttpRequest:
        """The message as the host wants it; equal for the first send and each repeat (D8).

        Raises:
            UnmappableMessage: a type that is not mapped, a required field that is missing, a value that does not fit.
        """
        operation = self._operation(message, purpose)
        if operation is None:
            business = " for the business of field 3" if message.mti[1:2] in _BUSINESSES else ""
            raise UnmappableMessage(f"message type {message.mti[:4]} is not mapped{business}")
        key = "" if purpose is Purpose.PROBE else idempotency_key(message.mti, message.fields, self.host)
        if operation.method != "POST":
            return HttpRequest(method=operation.method, path=operation.path, key=key, body=None)
        tree: dict[str, JsonValue] = {}
        for slot in operation.slots:
            try:
                value = slot.to_json(message.fields.get(slot.number, ""))
            except ValueMistake as error:
                raise UnmappableMessage(str(error)) from None
            if value is not None:
                put(tree, slot.paths[0], value)
            elif slot.required:
                raise UnmappableMessage(f"field {slot.label} is missing")
        for path, constant in operation.constants:
            put(tree, path, constant)
        if operation.key_path:
            put(tree, operation.key_path, key)
        if operation.original_key_path:
            put(tree, operation.original_key_path, original_key(message.fields, self.host))
        body = json.dumps(tree, separators=(",", ":")).encode("ascii")
        return HttpRequest(method=operation.method, path=operation.path, key=key, body=body)

    def answer(self, reply: HttpReply, message: Message, purpose: Purpose) -> Fields | Doubt:
        """The fields of the answer to `message`, or why the reply proves nothing. See the table above."""
        operation = self._operation(message, purpose)
        if operation is None:
            raise RuntimeError("an answer to a message that could not be sent")
        good = 200 <= reply.status <= 299
        verdict = self.statuses.get(reply.status) or self.statuses.get(reply.status // 100)
        if verdict is None or purpose is Purpose.PROBE:
            verdict = AS_ANSWER if good else IN_DOUBT
        if verdict == IN_DOUBT:
            return Doubt(DoubtKind.STATUS, f"status {reply.status // 100}xx")
        fields = {n: message.fields[n] for n in self.host.match_fields if n in message.fields}
        if verdict != AS_ANSWER:
            return {**fields, 39: verdict}
        found = self._read(operation, reply, message)
        if isinstance(found, Doubt):
            return found
        if not good and found[39] in self.host.approved_codes:
            return Doubt(DoubtKind.UNREADABLE, "an approval under a status of failure")
        return {**found, **fields}

    def _read(self, operation: Operation, reply: HttpReply, message: Message) -> Fields | Doubt:
        fields: Fields = dict(operation.answer_constants)
        if not operation.answer:
            return fields
        if reply.content_type not in _JSON_TYPES and not reply.content_type.endswith("+json"):
            return Doubt(DoubtKind.UNREADABLE, "content type is not JSON")
        try:
            tree = read_json(reply.body)
        except BadJson as error:
            return Doubt(DoubtKind.UNREADABLE, str(error))
        for slot in operation.answer:
            values: list[JsonValue] = [value for path in slot.paths if (value := at(tree, path)) is not None]
            if slot.number in self.host.match_fields:
                if not values and not slot.required:
                    continue
                if not values or not _is_own(slot, values[0], message.fields):
                    return Doubt(DoubtKind.UNMATCHED, f"field {slot.label} is not the message's")
                continue
            read = _readable(slot, values)
            if slot.number == 39 and len({code in self.host.approved_codes for code in read}) > 1:
                return Doubt(DoubtKind.UNREADABLE, "field 39 is an approval and is none")
            if read:
                fields[slot.number] = read[0]
            elif slot.required:
                return Doubt(DoubtKind.UNREADABLE, f"field {slot.label} is missing or does not fit")
        return fields

    def _operation(self, message: Message, purpose: Purpose) -> Operation | None:
        """How a message is sent, or None: a void or a refund must never be sent as if it were a sale."""
        if purpose is Purpose.PROBE:
            return self.probe
        try:
            mti = first_mti(message.mti)
        except ValueError:  # no MTI at all
            return None
        general = self.operations.get(mti)
        business = message.fields.get(3, "")[:2]
        if mti[1] not in _BUSINESSES or (special := self.operations.get(f"{mti}/{business}")) is None:
            said = general is not None and any(slot.number == 3 for slot in general.slots)
            return general if said or business in _BUSINESSES.get(mti[1], {business}) else None
        return special


def _readable(slot: Slot, values: list[JsonValue]) -> list[str]:
    """The values that fit, in the order of their paths."""
    read = []
    for value in values:
        try:
            read.append(slot.from_json(value))
        except ValueMistake:  # the next path may say it in other words
            continue
    return read


def _is_own(slot: Slot, value: JsonValue, fields: Fields) -> bool:
    """Whether the host gave back what it was sent: compared in its own terms, so that zeros in front do not count."""
    try:
        sent = slot.to_json(fields.get(slot.number, ""))
    except ValueMistake:
        return False
    return type(value) is type(sent) and value == sent


def idempotency_key(mti: str, fields: Fields, host: HostRules) -> str:
    """The Idempotency-Key of a message: the same for each repeat, and another for anything else (D1, D8).

    It is made of class and function of the message type, STAN, terminal and merchant whatever the host gives back, its
    other match fields, the batch number, and the local date (field 13) or else the whole of field 7, which no mapping
    makes fresh in a repeat. So an advice, the request that it stands for, and their reversals differ; and so does a
    sale without a date from one with it, which are two transactions (D1).

    Raises:
        UnmappableMessage: no MTI.
    """
    try:
        first = first_mti(mti)
    except ValueError as error:
        raise UnmappableMessage(str(error)) from None
    batch = fields.get(host.batch_field, "")[host.batch_start : host.batch_start + host.batch_length]
    named = [fields.get(number, "").rstrip(" ") for number in fields_of_key(host)]
    parts = [first[1:3], *named, fields.get(13) or fields.get(7, ""), batch]
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{first}-{digest}"


def fields_of_key(host: HostRules) -> tuple[int, ...]:
    """The fields that an Idempotency-Key is made of, beside date and batch.

    Two terminals count alike, so that theirs are among them also where the host gives back no more than the STAN.
    """
    return tuple(dict.fromkeys((11, 41, 42, *host.match_fields)))


def original_key(fields: Fields, host: HostRules) -> str:
    """The Idempotency-Key that the original of a reversal had, out of the reversal's field 90 (D12).

    Raises:
        UnmappableMessage: field 90 is missing or short.
    """
    original = fields.get(90, "")
    if host.original is not OriginalForm.DE_90 or len(original) < 20:
        raise UnmappableMessage("field 90 must name the original")
    return idempotency_key(original[:4], {**fields, 11: original[4:10], 7: original[10:20]}, host)
