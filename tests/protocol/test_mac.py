"""A message that was changed, or that was made under another key, does not pass its MAC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psec.des
import psec.mac
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mac import (
    MAC_BYTES,
    MAC_KEY_BYTES,
    MacInputError,
    MacKey,
    MacKeyError,
    compute_mac,
    mac_input,
    verify_mac,
)
from protocol.mac_method import MacMethod

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "mac_and_keys.json"

SINGLE = bytes.fromhex("0123456789ABCDEF")
DOUBLE = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
AES_128 = bytes.fromhex("2B7E151628AED2A6ABF7158809CF4F3C")
AES_192 = bytes.fromhex("8E73B0F7DA0E6452C810F32B809079E562F8EAD2522C6B7B")
AES_256 = bytes.fromhex("603DEB1015CA71BE2B73AEF0857D77811F352C073B6108D72D9810A30914DFF4")
NIST_MESSAGE = bytes.fromhex(
    "6BC1BEE22E409F96E93D7E117393172AAE2D8A571E03AC9C9EB76FAC45AF8E5130C81C46A35CE411"
    "E5FBC1191A0A52EFF69F2445DF4F9B17AD2B417BE66C3710"
)

KEYS = [
    (MacMethod.UNIONPAY_ECB, SINGLE),
    (MacMethod.UNIONPAY_ECB, DOUBLE),
    (MacMethod.X9_9, SINGLE),
    (MacMethod.X9_19, DOUBLE),
    (MacMethod.AES_CMAC, AES_128),
    (MacMethod.AES_CMAC, AES_256),
]
keyed = pytest.mark.parametrize(("method", "key"), KEYS, ids=lambda value: str(value) if isinstance(value, str) else "")
# The oracle still reaches for DES where cryptography keeps it for old callers.
oracle = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


def vector() -> dict[str, Any]:
    if not VECTORS.exists():
        return {}
    found = json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]
    return next((one for one in found if "field_64_ascii" in one), {})


@pytest.mark.skipif(not vector(), reason="the shared vectors are not beside this checkout")
def test_the_shared_unionpay_vector_holds() -> None:
    shared = vector()
    mac = compute_mac(MacMethod.UNIONPAY_ECB, bytes.fromhex(shared["mac_key"]), bytes.fromhex(shared["data"]))
    assert mac == shared["field_64_ascii"].encode()


@pytest.mark.parametrize(
    ("method", "key", "data", "mac"),
    [
        # FIPS 113, the example of its appendix
        (MacMethod.X9_9, SINGLE, b"7654321 Now is the time for ", "F1D30F6849312CA4"),
        # ISO/IEC 9797-1, examples of its annex: algorithms 1 and 3, padding 1
        (MacMethod.X9_9, SINGLE, b"Now is the time for all ", "70A30640CC76DD8B"),
        (MacMethod.X9_9, SINGLE, b"Now is the time for it", "E45B3AD2B7CC0856"),
        (MacMethod.X9_19, DOUBLE, b"Now is the time for all ", "A1C72E74EA3FA9B6"),
        (MacMethod.X9_19, DOUBLE, b"Now is the time for it", "2E2B1428CC78254F"),
        # NIST SP 800-38B, D.1 to D.3, the leftmost 8 bytes
        (MacMethod.AES_CMAC, AES_128, b"", "BB1D6929E9593728"),
        (MacMethod.AES_CMAC, AES_128, NIST_MESSAGE[:16], "070A16B46B4D4144"),
        (MacMethod.AES_CMAC, AES_128, NIST_MESSAGE[:40], "DFA66747DE9AE630"),
        (MacMethod.AES_CMAC, AES_128, NIST_MESSAGE, "51F0BEBF7E3B9D92"),
        (MacMethod.AES_CMAC, AES_192, NIST_MESSAGE[:40], "8A1DE5BE2EB31AAD"),
        (MacMethod.AES_CMAC, AES_256, NIST_MESSAGE[:40], "AAF3D8F1DE5640C2"),
    ],
)
def test_published_values_hold(method: MacMethod, key: bytes, data: bytes, mac: str) -> None:
    assert compute_mac(method, key, data).hex().upper() == mac
    assert verify_mac(method, key, data, bytes.fromhex(mac))


def unionpay_by_the_book(key: bytes, data: bytes) -> bytes:
    """The method as the terminals' notes tell it, step by step, on another library's TDES."""
    folded = bytearray(8)
    for place, byte in enumerate(data):
        folded[place % 8] ^= byte
    text = folded.hex().upper().encode()
    first = psec.des.encrypt_tdes_ecb(key, text[:8])
    second = psec.des.encrypt_tdes_ecb(key, bytes(a ^ b for a, b in zip(first, text[8:], strict=True)))
    return second.hex().upper()[:8].encode()


@oracle
@given(key=st.sampled_from([8, 16]).flatmap(lambda n: st.binary(min_size=n, max_size=n)), data=st.binary(max_size=300))
def test_unionpay_ecb_agrees_with_the_book_for_both_lengths_of_key(key: bytes, data: bytes) -> None:
    assert compute_mac(MacMethod.UNIONPAY_ECB, key, data) == unionpay_by_the_book(key, data)


@oracle
@given(key=st.binary(min_size=16, max_size=16), data=st.binary(min_size=1, max_size=300))
def test_x9_9_and_x9_19_agree_with_an_independent_library(key: bytes, data: bytes) -> None:
    left, right = key[:8], key[8:]
    assert compute_mac(MacMethod.X9_9, left, data) == psec.mac.generate_cbc_mac(left, data, padding=1)
    assert compute_mac(MacMethod.X9_19, key, data) == psec.mac.generate_retail_mac(left, right, data, padding=1)


@given(key=st.binary(min_size=8, max_size=8), data=st.binary(max_size=100))
def test_a_key_with_equal_halves_does_what_the_single_length_key_does(key: bytes, data: bytes) -> None:
    unionpay = MacMethod.UNIONPAY_ECB
    assert compute_mac(unionpay, key * 2, data) == compute_mac(unionpay, key, data)
    assert compute_mac(MacMethod.X9_19, key * 2, data) == compute_mac(MacMethod.X9_9, key, data)


@keyed
@given(data=st.binary(max_size=300))
def test_the_mac_is_eight_bytes_and_passes(method: MacMethod, key: bytes, data: bytes) -> None:
    mac = compute_mac(method, key, data)
    assert len(mac) == MAC_BYTES
    assert verify_mac(method, key, data, mac)
    if method is MacMethod.UNIONPAY_ECB:
        assert set(mac) <= set(b"0123456789ABCDEF")


@keyed
@given(data=st.binary(min_size=1, max_size=300), choose=st.data())
def test_one_flipped_bit_of_the_message_is_refused(
    method: MacMethod, key: bytes, data: bytes, choose: st.DataObject
) -> None:
    mac_key = MacKey(method, key)
    mac = mac_key.compute(data)
    assert not mac_key.verify(flipped(data, choose.draw(st.integers(0, len(data) * 8 - 1))), mac)


@keyed
@given(data=st.binary(max_size=100))
def test_one_flipped_bit_of_the_mac_is_refused_wherever_it_is(method: MacMethod, key: bytes, data: bytes) -> None:
    mac_key = MacKey(method, key)
    mac = mac_key.compute(data)
    assert not any(mac_key.verify(data, flipped(mac, bit)) for bit in range(MAC_BYTES * 8))


@keyed
def test_every_flipped_bit_of_a_whole_message_is_refused(method: MacMethod, key: bytes) -> None:
    mac_key = MacKey(method, key)
    message = bytes(range(1, 251))
    mac = mac_key.compute(message)
    assert not any(mac_key.verify(flipped(message, bit), mac) for bit in range(len(message) * 8))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


@keyed
def test_a_mac_under_another_key_is_refused(method: MacMethod, key: bytes) -> None:
    other = bytes(byte ^ 0x10 for byte in key)
    assert not verify_mac(method, key, b"message", compute_mac(method, other, b"message"))


@keyed
def test_a_mac_of_another_length_is_refused(method: MacMethod, key: bytes) -> None:
    mac = compute_mac(method, key, b"message")
    assert not any(verify_mac(method, key, b"message", mac[:size]) for size in range(MAC_BYTES))
    assert not verify_mac(method, key, b"message", mac + b"\0")


@keyed
@given(messages=st.lists(st.binary(max_size=60), max_size=8))
def test_a_prepared_key_keeps_nothing_of_the_messages_before(
    method: MacMethod, key: bytes, messages: list[bytes]
) -> None:
    mac_key = MacKey(method, key)
    assert [mac_key.compute(one) for one in messages] == [compute_mac(method, key, one) for one in messages]


def test_unionpay_hex_in_lower_case_is_refused() -> None:
    mac = compute_mac(MacMethod.UNIONPAY_ECB, SINGLE, b"message 1")
    assert mac.lower() != mac
    assert not verify_mac(MacMethod.UNIONPAY_ECB, SINGLE, b"message 1", mac.lower())


def test_without_a_method_only_an_empty_mac_passes() -> None:
    assert compute_mac(MacMethod.NONE, b"", b"message") == b""
    assert verify_mac(MacMethod.NONE, b"", b"message", b"")
    assert not verify_mac(MacMethod.NONE, b"", b"message", bytes(8))


@pytest.mark.parametrize("method", list(MacMethod))
def test_a_key_of_another_length_is_refused_and_not_shown(method: MacMethod) -> None:
    for size in set(range(40)) - set(MAC_KEY_BYTES[method]):
        with pytest.raises(MacKeyError, match=rf"{method} takes a key of .* bytes, not {size}$") as refusal:
            compute_mac(method, b"K" * size, b"message")
        assert "KK" not in str(refusal.value)


def test_a_prepared_key_does_not_show_itself() -> None:
    assert repr(MacKey(MacMethod.X9_19, DOUBLE)) == "MacKey(x9.19)"


def test_the_mac_covers_the_message_without_prefix_and_mac() -> None:
    prefix, message, mac = b"TPDU.header", b"MTI through 63", b"12345678"
    assert mac_input(prefix + message + mac, len(prefix)) == message
    assert mac_input(message + mac[:4], 0, mac_bytes=4) == message
    assert mac_input(message, 0, mac_bytes=0) == message


@pytest.mark.parametrize("size", range(20))
def test_a_frame_without_room_for_message_and_mac_is_refused(size: int) -> None:
    with pytest.raises(MacInputError, match=f"a frame of {size} bytes"):
        mac_input(bytes(size), prefix_bytes=11)
    assert mac_input(bytes(20), prefix_bytes=11) == bytes(1)
