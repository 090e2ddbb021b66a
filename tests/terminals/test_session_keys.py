"""Work keys follow from the master key alone, and none of them is a weak one."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from hypothesis import given
from hypothesis import strategies as st

from gateway.terminals import session_keys
from gateway.terminals.session_keys import MasterKey, derived_keys, first_usable, has_weak_part, layout_for, work_key
from protocol.iso8583.dialect import load_dialect
from protocol.tdes import ecb_encrypt
from tests.terminals.session_shop import TMK

GOOD = bytes.fromhex("1316191C1F232526")
RULES = load_dialect("unionpay").terminal


def test_work_keys_stay_what_they_were_in_earlier_releases() -> None:
    """RFC 5869 for one block, done by hand: a release that derived others would turn every terminal away."""
    expanded = hmac.HMAC(bytes(32), hashes.SHA256())
    expanded.update(TMK)
    pseudorandom = expanded.finalize()
    block = hmac.HMAC(pseudorandom, hashes.SHA256())
    block.update(b"holdfast work key 1|mac|16|20775|0|T0000001" + b"\x01")
    raw = block.finalize()[:16]
    key = work_key(TMK, "mac", "T0000001", 20_775, 16)
    assert bytes(octet | 1 for octet in key) == bytes(octet | 1 for octet in raw)  # but for parity
    assert key.hex() == "0401a758d6e397dadfbfa4daced62967"


@given(
    master=st.sampled_from([8, 16, 24]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    terminal=st.text(min_size=1, max_size=8),
    period=st.integers(0, 10**7),
    size=st.sampled_from([8, 16]),
)
def test_work_keys_have_their_length_and_odd_parity(master: bytes, terminal: str, period: int, size: int) -> None:
    key = work_key(master, "pin", terminal, period, size)
    assert len(key) == size
    assert all(octet.bit_count() % 2 for octet in key)


def test_work_keys_differ_by_everything_that_they_are_for() -> None:
    cases = [
        work_key(TMK, "pin", "T1", 1, 16),
        work_key(TMK, "mac", "T1", 1, 16),
        work_key(TMK, "track", "T1", 1, 16),
        work_key(TMK, "mac", "T2", 1, 16),
        work_key(TMK, "mac", "T1", 2, 16),
        work_key(TMK[::-1], "mac", "T1", 1, 16),
    ]
    assert len({key[:8] for key in cases} | {work_key(TMK, "mac", "T1", 1, 8)}) == 7


def test_what_is_derived_in_place_of_a_weak_key_is_another_one() -> None:
    derived = list(derived_keys(TMK, "mac", "T1", 1, 8))
    assert len(set(derived)) == len(derived) > 1


def test_the_weak_keys_are_those_that_undo_themselves_or_one_another() -> None:
    weak = session_keys._WEAK_KEYS
    assert len(weak) == 16
    block = bytes.fromhex("0123456789ABCDEF")
    for key in weak:
        assert all(octet.bit_count() % 2 for octet in key)
        undone = [other for other in weak if ecb_encrypt(other, ecb_encrypt(key, block)) == block]
        assert len(undone) == 1


@pytest.mark.parametrize("weak", sorted(session_keys._WEAK_KEYS), ids=bytes.hex)
def test_a_weak_key_is_never_given(weak: bytes) -> None:
    unadjusted = bytes(octet ^ 1 for octet in weak)
    for bad in (weak, unadjusted, weak + GOOD, GOOD + unadjusted):
        assert has_weak_part(bad)
        assert first_usable([bad, GOOD]) == GOOD
    assert not has_weak_part(GOOD)


def test_a_double_length_key_with_two_equal_halves_is_never_given() -> None:
    almost = GOOD + bytes(octet ^ 1 for octet in GOOD)  # equal but for parity
    assert first_usable([GOOD * 2, almost, GOOD + TMK[:8]])[:8] == GOOD
    with pytest.raises(ValueError, match="weak"):
        first_usable([GOOD * 2, almost])


@pytest.mark.parametrize(("size", "served"), [(8, ["001"]), (16, ["001", "003", "004"]), (24, ["001", "003", "004"])])
def test_no_work_key_travels_under_a_shorter_one(size: int, served: list[str]) -> None:
    master = MasterKey((TMK + TMK[::-1])[:size])
    assert [code for code in ("001", "003", "004") if layout_for(RULES, master, code)] == served
    assert layout_for(RULES, master, "002") is None
