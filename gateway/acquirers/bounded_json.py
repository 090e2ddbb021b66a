"""Reads a host's JSON and takes no chances: one meaning or none (INV-9).

Python's parser takes the last of two equal names, NaN, and any depth. A host whose answer has two outcomes has told us
nothing, so such a text is refused as a whole.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from gateway.acquirers.mapping_values import JsonValue

DEPTH_MAX: Final = 32
_STEPS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
"""Strings and brackets; also a string without an end, so that none is read again from each of its quotes."""


class BadJson(ValueError):
    """The text cannot be used. The reason is one of a few, and holds nothing of the text."""


def read_json(body: bytes) -> JsonValue:
    """The value of a JSON text in UTF-8, whose size its reader has bounded.

    Raises:
        BadJson: no JSON, deeper than `DEPTH_MAX`, a name twice in an object, or a number that JSON does not have.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadJson("not UTF-8") from None
    depth = 0
    for step in _STEPS.finditer(text):
        if step[0] in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise BadJson("nested too deeply")
        elif step[0] in "]}":
            depth -= 1
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except BadJson:
        raise
    except ValueError:  # its text would quote the body
        raise BadJson("not JSON") from None
    return value


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadJson("a name stands twice in an object")
    return made


def _no_constant(_: str) -> NoReturn:
    raise BadJson("not JSON")
