"""A host's JSON has one meaning or none, and is read in a time that does not depend on what it says."""

from __future__ import annotations

import time
from typing import Final

import pytest

from gateway.acquirers.bounded_json import BadJson, read_json
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.settings import EndpointSettings

LONGEST: Final = HttpLinkSettings(name="host", endpoints=(EndpointSettings(host="127.0.0.1", port=1),)).body_max_bytes


@pytest.mark.parametrize(
    "part",
    [b'\\"', b"\\\\", b'"', b'""', b'"\\', b"[", b'["', b"9", b'{"a":', b"\\u0022"],
)
@pytest.mark.parametrize("front", [b'"', b'{"a":"', b""])
def test_a_hostile_answer_of_the_longest_length_is_refused_soon(front: bytes, part: bytes) -> None:
    body = front + part * ((LONGEST - len(front)) // len(part))
    began_s = time.process_time()
    with pytest.raises(BadJson):
        read_json(body)
    assert time.process_time() - began_s < 1.0, "nobody else is served meanwhile"


def test_brackets_in_strings_are_no_depth() -> None:
    assert read_json(b'{"a": "' + b"[" * 100 + b'\\"{{{"}') == {"a": "[" * 100 + '"{{{'}
