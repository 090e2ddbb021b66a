"""HMAC with its pads hashed beforehand is HMAC."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.hmac_sha256 import HmacSha256


@given(key=st.binary(max_size=64), beginning=st.binary(max_size=70), messages=st.lists(st.binary(max_size=200)))
def test_it_gives_what_the_standard_library_gives_for_message_after_message(
    key: bytes, beginning: bytes, messages: list[bytes]
) -> None:
    ours = HmacSha256(key, beginning)
    for message in messages:
        assert ours.digest(message) == hmac.digest(key, beginning + message, "sha256")


def test_a_key_that_would_have_to_be_hashed_first_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        HmacSha256(bytes(65))
