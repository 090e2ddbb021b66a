"""A session's keys are taken only where each proves itself by its check value."""

from __future__ import annotations

import psec.des
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.tdes import check_value, ecb_decrypt, ecb_encrypt, tdes
from protocol.work_keys import WorkKeyError, WorkKeys, open_work_keys, seal_work_keys

TMK = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
PIN_8, MAC_8 = bytes.fromhex("1122334455667788"), bytes.fromhex("8877665544332211")
PIN_16, MAC_16, TRACK_16 = (bytes(range(start, start + 16)) for start in (0x10, 0x40, 0x80))
KINDS = [
    (24, WorkKeys(PIN_8, MAC_8)),
    (40, WorkKeys(PIN_16, MAC_8)),
    (40, WorkKeys(PIN_16, MAC_16)),
    (60, WorkKeys(PIN_16, MAC_8, TRACK_16)),
    (60, WorkKeys(PIN_16, MAC_16, TRACK_16)),
]
NAMES = {24: ("pin", "mac"), 40: ("pin", "mac"), 60: ("pin", "mac", "track")}
ENTRY_BYTES = {24: 12, 40: 20, 60: 20}
kinds = pytest.mark.parametrize(("size", "keys"), KINDS)
# The oracle still reaches for DES where cryptography keeps it for old callers.
oracle = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


def key_of(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


tmks = st.sampled_from([8, 16, 24]).flatmap(key_of)
work_keys = st.one_of(
    st.builds(WorkKeys, key_of(8), key_of(8)),
    st.builds(WorkKeys, key_of(16), st.one_of(key_of(8), key_of(16)), st.one_of(st.none(), key_of(16))),
)


def test_a_published_sign_on_answer_opens() -> None:
    """A worked example of UnionPay's double-length layout, published in developers' notes."""
    tmk = bytes.fromhex("CA5D92598DCA48CE8A4C76361A9269E9")
    field_62 = bytes.fromhex(
        "6701EAD6A9AD51E51AA406E2C27FCFA9 8D0A74B8 B651F9E9BACE9AE1 0000000000000000 AB7153CA"  # MAC key padded
    )
    keys = open_work_keys(tmk, field_62)
    assert keys.pin.hex().upper() == "807A23AD32B36D457AE91FDF927570EA"
    assert keys.mac.hex().upper() == "5BB5C72CD00B7338"
    assert keys.track is None
    assert seal_work_keys(tmk, keys) == field_62


@given(tmk=tmks, keys=work_keys, check_value_bytes=st.integers(3, 8))
def test_sealed_keys_open_to_themselves(tmk: bytes, keys: WorkKeys, check_value_bytes: int) -> None:
    field_62 = seal_work_keys(tmk, keys, check_value_bytes)
    assert open_work_keys(tmk, field_62, check_value_bytes) == keys


@kinds
def test_each_kind_of_keys_has_its_length(size: int, keys: WorkKeys) -> None:
    assert len(seal_work_keys(TMK, keys)) == size


@oracle
@kinds
def test_each_entry_is_what_an_independent_library_makes_of_the_key(size: int, keys: WorkKeys) -> None:
    expected = b""
    for key in (keys.pin, keys.mac, keys.track):
        if key is not None:
            sealed = psec.des.encrypt_tdes_ecb(TMK, key).ljust(ENTRY_BYTES[size] - 4, b"\0")
            expected += sealed + psec.des.generate_kcv(key, 4)
    assert seal_work_keys(TMK, keys) == expected


@oracle
@given(key=tmks, blocks=st.integers(1, 5).flatmap(lambda count: key_of(count * 8)))
def test_blocks_are_encrypted_as_an_independent_library_does(key: bytes, blocks: bytes) -> None:
    encrypted = ecb_encrypt(key, blocks)
    assert encrypted == psec.des.encrypt_tdes_ecb(key, blocks)
    assert ecb_decrypt(key, encrypted) == blocks
    assert check_value(key) == psec.des.generate_kcv(key, 4)


@kinds
def test_a_flipped_bit_names_the_key_that_it_spoils(size: int, keys: WorkKeys) -> None:
    field_62 = seal_work_keys(TMK, keys)
    for bit in range(size * 8):
        changed = bytearray(field_62)
        changed[bit // 8] ^= 0x80 >> bit % 8
        name = NAMES[size][bit // 8 // ENTRY_BYTES[size]]
        with pytest.raises(WorkKeyError, match=f"check value does not match: {name} key") as refusal:
            open_work_keys(TMK, bytes(changed))
        assert refusal.value.failed == (name,)


def test_only_the_mac_key_may_be_padded() -> None:
    """A PIN key shortened the same way would encrypt PINs under single DES where double length was agreed."""
    padded_pin = ecb_encrypt(TMK, PIN_8) + bytes(8) + check_value(PIN_8)
    with pytest.raises(WorkKeyError, match="pin key") as refusal:
        open_work_keys(TMK, padded_pin + seal_work_keys(TMK, WorkKeys(PIN_16, MAC_8))[20:])
    assert refusal.value.failed == ("pin",)


@kinds
def test_another_master_key_fails_every_check_value(size: int, keys: WorkKeys) -> None:
    with pytest.raises(WorkKeyError) as refusal:
        open_work_keys(TMK[::-1], seal_work_keys(TMK, keys))
    assert refusal.value.failed == NAMES[size]
    assert not any(part.hex() in str(refusal.value).lower() for part in (TMK, keys.pin, keys.mac))


@pytest.mark.parametrize("size", sorted(set(range(70)) - {24, 40, 60}))
def test_another_length_of_the_field_is_refused(size: int) -> None:
    with pytest.raises(WorkKeyError, match=f"has 24, 40, 60 bytes, not {size}") as refusal:
        open_work_keys(TMK, bytes(size))
    assert refusal.value.failed == ()


def test_a_make_with_check_values_of_three_bytes_has_its_own_lengths() -> None:
    sizes = [len(seal_work_keys(TMK, keys, check_value_bytes=3)) for _, keys in KINDS]
    assert sizes == [22, 38, 38, 57, 57]


@pytest.mark.parametrize(
    "keys",
    [
        WorkKeys(PIN_8, MAC_16),
        WorkKeys(PIN_8, MAC_8, PIN_8),
        WorkKeys(PIN_16, MAC_16, PIN_8),
        WorkKeys(PIN_16, b""),
        WorkKeys(b"", MAC_8),
        WorkKeys(PIN_16 + PIN_8, MAC_16),
        WorkKeys(PIN_16, MAC_16, b""),
    ],
)
def test_keys_that_no_layout_has_are_not_sealed(keys: WorkKeys) -> None:
    with pytest.raises(WorkKeyError, match="no layout of DE 62"):
        seal_work_keys(TMK, keys)


@pytest.mark.parametrize("size", [0, 7, 9, 15, 17, 32])
def test_a_master_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(WorkKeyError, match=f"a terminal master key has 8, 16 or 24 bytes, not {size}"):
        open_work_keys(bytes(size), bytes(24))
    with pytest.raises(WorkKeyError, match=f"not {size}"):
        seal_work_keys(bytes(size), WorkKeys(PIN_8, MAC_8))


@pytest.mark.parametrize("check_value_bytes", [-1, 0, 2, 9])
def test_a_check_value_too_short_to_prove_anything_is_refused(check_value_bytes: int) -> None:
    with pytest.raises(WorkKeyError, match="3 to 8 bytes"):
        open_work_keys(TMK, bytes(16 + 2 * check_value_bytes), check_value_bytes)
    with pytest.raises(WorkKeyError, match="3 to 8 bytes"):
        seal_work_keys(TMK, WorkKeys(PIN_8, MAC_8), check_value_bytes)


def test_keys_do_not_show_themselves() -> None:
    assert repr(WorkKeys(PIN_16, MAC_16, TRACK_16)) == "WorkKeys()"


def test_blocks_must_be_whole_and_keys_of_a_length_of_des() -> None:
    for cipher in (ecb_encrypt, ecb_decrypt):
        with pytest.raises(ValueError, match="9 bytes are no whole blocks"):
            cipher(TMK, bytes(9))
    with pytest.raises(ValueError, match="8, 16 or 24 bytes, not 12"):
        tdes(bytes(12))
