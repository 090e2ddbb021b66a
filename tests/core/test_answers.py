"""Answers made by the gateway: what they give back, and the approval code that follows from the key."""

from __future__ import annotations

import hashlib

from gateway.core.answers import approval_code, local_answer
from gateway.core.transaction import DEFAULT_RULES


def test_an_approval_code_is_six_digits_of_the_keys_hash_with_its_leading_zeros() -> None:
    codes = []
    for number in range(500):
        key = f"B000001|123456789012345|T0000001|2|{number:06}"
        first = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        codes.append(approval_code(key))
        assert codes[-1] == f"{first % 1_000_000:06}"
    assert any(code.startswith("0") for code in codes)


def test_an_answer_gives_back_what_its_dialect_echoes_and_leaves_the_request_as_it_was() -> None:
    request = {3: "000000", 4: "000000000100", 14: "3012", 41: "T0000001", 61: "more", 2: "4000000000000002"}
    before = dict(request)
    answer = local_answer("0200", request, "91", DEFAULT_RULES, 0)
    assert answer.mti == "0210"
    assert answer.fields == {
        2: "4000000000000002", 3: "000000", 4: "000000000100", 41: "T0000001", 39: "91",
    }  # fmt: skip
    assert request == before
