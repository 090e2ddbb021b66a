"""The form of a mapping's TOML file, checked as a whole: every mistake is found in one go.

name = "tern"
key_header = "Idempotency-Key"

[fields]                          # of every message: field number, or a part of a field, and its place in the JSON
4 = { path = "amount.minor", type = "minor", required = true }
13 = { path = "local_date", type = "date", to = "MM-DD" }
49 = { path = "amount.currency", codes = { 156 = "CNY" } }
"60.2" = { path = "batch", start = 2, length = 6 }
[constants]                       # of every message: a path and its value
"channel" = "gateway"
[answer]                          # of every answer
39 = { path = ["reason", "outcome"], codes = { approved = "00", no_funds = "51" } }
[messages.0200]                   # by message type of the first send; its own tables are added to the shared ones
path = "/payments"
key = "reference"                 # optional: where the body has the Idempotency-Key as well
fields = { 55 = { path = "card.chip" }, 13 = false }
[probe]
path = "/health"
[status]
503 = "91"                        # a code, "answer" or "in doubt"
[host]                            # keys of HostRules, as in a dialect
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Final

from gateway.acquirers.mapping import AS_ANSWER, IN_DOUBT, HttpMapping, Operation, fields_of_key
from gateway.acquirers.mapping_slots import Place, path_of, read_answer, read_constants, read_slots
from gateway.acquirers.mapping_values import JsonValue, Path
from protocol.iso8583.dialect_rules import read_host
from protocol.iso8583.mistakes import Mistakes, TableReader
from protocol.iso8583.rules import HostRules, OriginalForm
from protocol.response_codes import APPROVALS, RETRY_LATER

_SHIPPED: Final = FilePath(__file__).parent / "mappings"
_MTI: Final = re.compile(r"0[12][02]0(/[0-9]{2})?|0[45][02]0|0320")
_URL_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_STATUS: Final = re.compile(r"[245][0-9]{2}")
_CODE: Final = re.compile(r"[0-9A-Z]{2}")
_NO_PROOF: Final = frozenset({408, 429})
_NEVER_A_KEY: Final = frozenset({2, 14, 35, 36, 45, 52, 53, 55})


class MappingError(ValueError):
    """A mapping file is wrong.

    Attributes:
        mistakes: each names the file, the key, and what would be right.
    """

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def shipped_mappings() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def load_mapping(name_or_path: str) -> HttpMapping:
    """Load a shipped mapping by its name, or any by the path of its TOML file.

    What ends in ".toml" or holds a slash is a path, all else a name.

    Raises:
        MappingError: every mistake of the file at once; also where there is no such file.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path or "\\" in name_or_path:
        path = FilePath(name_or_path)
    elif name_or_path in shipped_mappings():
        path = _SHIPPED / f"{name_or_path}.toml"
    else:
        known = ", ".join(shipped_mappings())
        raise MappingError((f"{name_or_path}: no such mapping; shipped are {known}, or give the path of a .toml file",))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError((f"{path}: cannot be read: {error.strerror}",)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError((f"{path}: not TOML: {error}",)) from error
    return mapping_of(str(path), table)


def mapping_of(file: str, table: Mapping[str, Any]) -> HttpMapping:
    """The mapping that a parsed TOML table means.

    Args:
        file: how mistakes name the file.
    Raises:
        MappingError: with all mistakes.
    """
    mistakes = Mistakes(file)
    top = TableReader(mistakes, "", table)
    name = top.text("name", "")
    if not name:
        mistakes.add("name", "must be the mapping's name")
    key_header = top.text("key_header", "Idempotency-Key")
    if _HEADER.fullmatch(key_header) is None:
        mistakes.add("key_header", "must be the name of an HTTP header")
    host = read_host(mistakes, top.table("host"), range(2, 129))
    _check_host(mistakes, host)
    shared = _Shared(mistakes, top, host)
    operations = {}
    for mti, one in top.table("messages").items():
        if _MTI.fullmatch(mti) is None:
            right = 'must be named by the message type of a first send, such as "0200", or with DE 3, such as "0200/20"'
            mistakes.add(f"messages.{mti}", right)
        elif not isinstance(one, dict):
            mistakes.add(f"messages.{mti}", "must be a table")
        else:
            operations[mti] = shared.operation(mti, one, host)
    _check_types(mistakes, operations, host)
    _check_original_key(mistakes, operations, host)
    _check_reversals(mistakes, operations, host)
    probe = _probe(mistakes, top.table("probe"))
    statuses = _statuses(mistakes, top.table("status"), host)
    top.finish()
    if mistakes:
        raise MappingError(mistakes.all())
    return HttpMapping(
        name=name, key_header=key_header, operations=operations, probe=probe, statuses=statuses, host=host
    )


class _Shared:
    """The tables that hold for every message, to which each message adds its own."""

    def __init__(self, mistakes: Mistakes, top: TableReader, host: HostRules) -> None:
        self._mistakes = mistakes
        self._slots = read_slots(mistakes, "fields", top.table("fields"))
        self._constants = read_constants(mistakes, "constants", top.table("constants"))
        self._answer = read_answer(mistakes, "answer", top.table("answer"), host.match_fields)
        self._match_fields = host.match_fields

    def operation(self, mti: str, table: Mapping[str, Any], host: HostRules) -> Operation:
        place = f"messages.{mti}"
        reader = TableReader(self._mistakes, place, table)
        reader.choice("method", ("POST",), "POST")  # no other is free of a library's own retries
        path = _url_path(reader)
        own = read_slots(self._mistakes, f"{place}.fields", reader.table("fields"), known=self._slots)
        slots = {label: slot for label, slot in {**self._slots, **own}.items() if slot is not None}
        constants = {
            **self._constants,
            **read_constants(self._mistakes, f"{place}.constants", reader.table("constants")),
        }
        answer = self._answer.with_own(
            read_answer(self._mistakes, f"{place}.answer", reader.table("answer"), self._match_fields)
        )
        if 39 not in answer.numbers:
            self._mistakes.add(f"{place}.answer.39", "is missing: the outcome, from [answer] or from here")
        key_path = path_of(reader, "key") if "key" in reader else ()
        original_key_path = path_of(reader, "original_key") if "original_key" in reader else ()
        if original_key_path and (mti[1] != "4" or host.original is not OriginalForm.DE_90):
            reader.mistake("original_key", 'is for reversals (04xx) of a host with original = "de90"')
        reader.finish()
        places: list[Place] = [*[(f"field {s.label}", s.paths[0]) for s in slots.values()]]
        places += [(f"constant {'.'.join(constant)}", constant) for constant in constants]
        places += [(named, one) for named, one in (("key", key_path), ("original_key", original_key_path)) if one]
        _check_collisions(self._mistakes, place, places)
        return Operation(
            method="POST",
            path=path,
            slots=tuple(slots.values()),
            constants=tuple(constants.items()),
            answer=tuple(answer.slots.values()),
            answer_constants=answer.constants,
            key_path=key_path,
            original_key_path=original_key_path,
        )


def _url_path(reader: TableReader) -> str:
    path = reader.text("path", "")
    if _URL_PATH.fullmatch(path) is None:
        reader.mistake("path", 'must be the path of the request, such as "/v1/payments", without a query')
    return path


def _check_collisions(mistakes: Mistakes, place: str, places: list[Place]) -> None:
    ends: dict[Path, str] = {}
    for named, path in places:
        if path in ends:
            mistakes.add(place, f"must not give {named} and {ends[path]} the same path")
        ends[path] = named
    for named, path in places:
        for length in range(1, len(path)):
            if path[:length] in ends:
                mistakes.add(place, f"must not put {named} inside the value of {ends[path[:length]]}")


def _check_host(mistakes: Mistakes, host: HostRules) -> None:
    if 11 not in host.match_fields:
        mistakes.add("host.match_fields", "must have 11, the STAN")
    if 7 in host.repeat_refresh:
        mistakes.add("host.repeat_refresh", "must not have 7: without a date (13), a repeat is known by it")
    for number in sorted(_NEVER_A_KEY & set(host.match_fields)):
        mistakes.add("host.match_fields", f"must not have {number}: a key is made of these, and kept")


def _check_types(mistakes: Mistakes, operations: Mapping[str, Operation], host: HostRules) -> None:
    """A request that can be asked must also be undone, and told of if it was stood in for."""
    asked = [mti for mti in ("0100", "0200") if mti in operations]
    if not asked:
        mistakes.add("messages", "must have 0200 or 0100")
    if host.reversal_mti not in operations:
        mistakes.add(f"messages.{host.reversal_mti}", "is missing: a request that is in doubt is reversed")
    for mti in asked:
        advice = host.advice_mti[0] + mti[1] + host.advice_mti[2:]
        if advice not in operations:
            mistakes.add(f"messages.{advice}", f"is missing: what {mti} asks may be stored and told later")
    if host.settles:
        for mti in ("0500", "0320"):
            if mti not in operations:
                mistakes.add(f"messages.{mti}", "is missing, and host.settles is true")


def _check_original_key(mistakes: Mistakes, operations: Mapping[str, Operation], host: HostRules) -> None:
    """The key of what is undone is made of the reversal: what is missing there names another payment, or none."""
    if not any(one.original_key_path for one in operations.values()):
        return
    told_elsewhere = {7, 11}  # in field 90
    missing = {*fields_of_key(host), 13, host.batch_field} - told_elsewhere - set(host.reversal_fields)
    if missing:
        which = ", ".join(str(number) for number in sorted(missing))
        mistakes.add("host.reversal_fields", f"must have {which} too: original_key is made of what a reversal carries")


def _check_reversals(mistakes: Mistakes, operations: Mapping[str, Operation], host: HostRules) -> None:
    """What a reversal must have, it is given: else each one would be parked, and none sent."""
    given = {7, 11, host.reason_field, *host.reversal_fields} | ({90} if host.original is OriginalForm.DE_90 else set())
    reversal = operations.get(host.reversal_mti)
    for slot in reversal.slots if reversal is not None else ():
        if slot.required and slot.number not in given:
            text = f"must have {slot.number} too: [messages.{host.reversal_mti}] requires field {slot.label}"
            mistakes.add("host.reversal_fields", text)


def _probe(mistakes: Mistakes, table: Mapping[str, Any]) -> Operation:
    reader = TableReader(mistakes, "probe", table)
    method = reader.choice("method", ("GET", "POST"), "GET")
    path = _url_path(reader)
    constants: dict[Path, JsonValue] = read_constants(mistakes, "probe.constants", reader.table("constants"))
    answer = read_answer(mistakes, "probe.answer", reader.table("answer"), ())
    reader.finish()
    return Operation(
        method=method,
        path=path,
        constants=tuple(constants.items()),
        answer=tuple(answer.slots.values()),
        answer_constants={39: "00", **answer.constants} if 39 not in answer.slots else answer.constants,
    )


def _statuses(mistakes: Mistakes, table: Mapping[str, Any], host: HostRules) -> dict[int, str]:
    statuses = {}
    for key, value in table.items():
        place = f"status.{key}"
        if key in ("4xx", "5xx"):
            status = int(key[0])
        elif _STATUS.fullmatch(key):
            status = int(key)
        else:
            mistakes.add(place, 'must be a status such as 422, or "4xx" or "5xx"; 3xx is always in doubt')
            continue
        first = status if status < 10 else status // 100
        if not isinstance(value, str) or (value not in (AS_ANSWER, IN_DOUBT) and _CODE.fullmatch(value) is None):
            mistakes.add(place, 'must be a code for field 39 such as "91", or "answer", or "in doubt"')
        elif value in APPROVALS | host.approved_codes:
            mistakes.add(place, "must not approve: only the body of an answer does")
        elif first == 2 and value not in (AS_ANSWER, IN_DOUBT):
            mistakes.add(place, 'must be "answer" or "in doubt": what a success means stands in the body')
        elif (first == 5 or status in _NO_PROOF) and value not in RETRY_LATER | {IN_DOUBT, AS_ANSWER}:
            mistakes.add(
                place,
                f'must be one of {", ".join(sorted(RETRY_LATER))}, "answer" or "in doubt": a host that fails has '
                "not declined",
            )
        else:
            statuses[status] = value
    return statuses
