"""A host derives the keys that a terminal used, from the base derivation key and what the terminal sent along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psec.pinblock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dukpt import (
    DukptError,
    KeyUse,
    aes_initial_key,
    aes_transaction_key,
    aes_working_key,
    initial_key,
    transaction_counter,
    transaction_key,
    working_key,
)
from protocol.mac import compute_mac
from protocol.mac_method import MacMethod
from protocol.tdes import ecb_decrypt, ecb_encrypt

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "mac_and_keys.json"

# Sample values of ANSI X9.24-1, annex A
BDK = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
SERIAL = 0xFFFF9876543210E00000
INITIAL_KEY = bytes.fromhex("6AC292FAA1315B4D858AB3A3D7D5933A")
PAN = "4012345678909"
PIN = "1234"
MACED = b"4012345678909D987"

# Sample values of ANSI X9.24-3
AES_BDK = bytes.fromhex("FEDCBA9876543210F1F1F1F1F1F1F1F1")
AES_TERMINAL = bytes.fromhex("1234567890123456")


def vector() -> dict[str, Any]:
    if not VECTORS.exists():
        return {}
    found = json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]
    return next((one for one in found if "pin_block_encrypted" in one), {})


def iso_0(pin: str, pan: str) -> bytes:
    """A PIN block of ISO 9564-1 format 0: the PIN's length and digits, XORed with twelve digits of the PAN."""
    field = int(f"0{len(pin):X}{pin}".ljust(16, "F"), 16)
    return (field ^ int(pan[-13:-1].rjust(16, "0"), 16)).to_bytes(8)


def pin_of_iso_0(block: bytes, pan: str) -> str:
    field = f"{int.from_bytes(block) ^ int(pan[-13:-1].rjust(16, '0'), 16):016X}"
    size = int(field[1], 16)
    assert field[0] == "0"
    assert set(field[2 + size :]) <= {"F"}
    return field[2 : 2 + size]


def ksn(counter: int) -> bytes:
    return (SERIAL | counter).to_bytes(10)


def aes_ksn(counter: int) -> bytes:
    return AES_TERMINAL + counter.to_bytes(4)


@pytest.mark.skipif(not vector(), reason="the shared vectors are not beside this checkout")
def test_the_shared_vector_holds() -> None:
    shared = vector()
    serial = bytes.fromhex(shared["key_serial_number"])
    initial = initial_key(bytes.fromhex(shared["base_derivation_key"]), serial)
    key = working_key(transaction_key(initial, serial), KeyUse.PIN)
    encrypted = bytes.fromhex(shared["pin_block_encrypted"])
    assert ecb_encrypt(key, iso_0(shared["pin"], shared["pan"])) == encrypted
    assert pin_of_iso_0(ecb_decrypt(key, encrypted), shared["pan"]) == shared["pin"]


def test_the_initial_key_of_the_standard_holds_whatever_the_counter() -> None:
    assert initial_key(BDK, ksn(0)) == INITIAL_KEY
    assert initial_key(BDK, ksn(0x1FFFFF)) == INITIAL_KEY


@pytest.mark.parametrize(
    ("counter", "key", "pin_block", "mac_request", "mac_response"),
    [
        (1, "042666B49184CFA368DE9628D0397BC9", "1B9C1845EB993A7A", "9CCC78173FC4FB64", "20364223C1FF00FA"),
        (2, "C46551CEF9FD24B0AA9AD834130D3BC7", "10A01C8D02C69107", "F608A9BCA6FFC311", "D1FCA6BEF05D24D2"),
        (3, "0DF3D9422ACA56E547676D07AD6BADFA", "18DC07B94797B466", "20B59A4FEAC937E3", "BAD4CC9CC2AE326C"),
        (4, "279C0F6AEED0BE652B2C733E1383AE91", "0BC79509D5645DF7", "C7BFA6CC44161828", "1EB08AEECE6FF0C2"),
        (5, "5F8DC6D2C845C125508DDC048093B83F", "5BC0AF22AD87B327", "0202B96339022058", "5CBE3E81D1D2A0FB"),
    ],
)
def test_the_sample_transactions_of_the_standard_hold(
    counter: int, key: str, pin_block: str, mac_request: str, mac_response: str
) -> None:
    transaction = transaction_key(INITIAL_KEY, ksn(counter))
    assert transaction.hex().upper() == key
    assert ecb_encrypt(working_key(transaction, KeyUse.PIN), iso_0(PIN, PAN)).hex().upper() == pin_block
    for use, mac in ((KeyUse.MAC_REQUEST, mac_request), (KeyUse.MAC_RESPONSE, mac_response)):
        assert compute_mac(MacMethod.X9_19, working_key(transaction, use), MACED).hex().upper() == mac


class SampleTerminal:
    """A terminal's side of X9.24-1 as the standard tells it: key registers that are used up and refilled.

    The host derives from the initial key for each transaction anew; that both arrive at the same keys over thousands
    of transactions is what no single known answer shows.
    """

    def __init__(self, initial: bytes, serial: int) -> None:
        self.serial = serial
        self.counter = 0
        self.registers: dict[int, bytes] = {}
        self._refill(initial, 1 << 20)
        self.counter = 1

    def _refill(self, key: bytes, below: int) -> None:
        shift = below
        while shift:
            register = ((self.serial | self.counter | shift) & (1 << 64) - 1).to_bytes(8)
            self.registers[shift] = self._step(key, register)
            shift >>= 1

    @staticmethod
    def _step(key: bytes, register: bytes) -> bytes:
        halves = []
        for mask in (0xC0C0C0C000000000, 0):
            left, right = (int.from_bytes(half) ^ mask for half in (key[:8], key[8:]))
            mixed = (int.from_bytes(register) ^ right).to_bytes(8)
            halves.append(int.from_bytes(ecb_encrypt(left.to_bytes(8), mixed)) ^ right)
        return b"".join(half.to_bytes(8) for half in halves)

    def next_transaction(self) -> tuple[bytes, bytes]:
        """The KSN that it sends, and the key that it used; the key is gone afterwards."""
        lowest = self.counter & -self.counter
        key = self.registers.pop(lowest)
        sent = (self.serial | self.counter).to_bytes(10)
        if self.counter.bit_count() < 10:
            self._refill(key, lowest >> 1)
            self.counter += 1
        else:
            self.counter += lowest
        return sent, key


def test_a_terminal_that_uses_up_its_registers_and_the_host_agree_for_thousands_of_transactions() -> None:
    terminal = SampleTerminal(INITIAL_KEY, SERIAL)
    counters = []
    for _ in range(5000):
        sent, key = terminal.next_transaction()
        assert transaction_key(INITIAL_KEY, sent) == key
        counters.append(transaction_counter(sent))
    assert max(map(int.bit_count, counters)) == 10
    assert counters == sorted(set(counters))
    assert counters[-1] > 5000  # it has skipped some


@given(counter=st.integers(1, 0x1FFFFF).filter(lambda counter: counter.bit_count() <= 10))
def test_no_two_uses_of_one_transaction_share_a_key(counter: int) -> None:
    transaction = transaction_key(INITIAL_KEY, ksn(counter))
    assert len({transaction, *(working_key(transaction, use) for use in KeyUse)}) == 1 + len(KeyUse)


@pytest.mark.parametrize("counter", [0, 0x7FF, 0x1FFFFF, 0b111_1111_1111 << 10])
def test_a_counter_that_no_terminal_uses_is_refused(counter: int) -> None:
    with pytest.raises(DukptError, match="counter of the key serial number"):
        transaction_key(INITIAL_KEY, ksn(counter))
    assert transaction_counter(ksn(counter)) == counter


@pytest.mark.parametrize("size", [*range(10), 11, 12, 20])
def test_a_serial_number_of_another_length_is_refused(size: int) -> None:
    for derive in (initial_key, transaction_key):
        with pytest.raises(DukptError, match=f"a key serial number has 10 bytes, not {size}"):
            derive(BDK, bytes(size))
    with pytest.raises(DukptError, match=f"not {size}"):
        transaction_counter(bytes(size))


@pytest.mark.parametrize("size", [0, 8, 15, 17, 24, 32])
def test_a_key_of_another_length_is_refused_and_not_shown(size: int) -> None:
    key = b"K" * size
    for derive in (initial_key, transaction_key):
        with pytest.raises(DukptError, match=f"has 16 bytes, not {size}") as refusal:
            derive(key, ksn(1))
        assert "KK" not in str(refusal.value)
    with pytest.raises(DukptError, match=f"a transaction key has 16 bytes, not {size}"):
        working_key(key, KeyUse.PIN)


@given(pin=st.text("0123456789", min_size=4, max_size=12), pan=st.text("0123456789", min_size=13, max_size=19))
def test_the_pin_block_of_these_tests_agrees_with_an_independent_library(pin: str, pan: str) -> None:
    block = iso_0(pin, pan)
    assert block == psec.pinblock.encode_pinblock_iso_0(pin, pan)
    assert pin_of_iso_0(block, pan) == pin


AES_128_WORKING_KEYS = [
    (KeyUse.PIN, "AF8CB133A78F8DC2D1359F18527593FB"),
    (KeyUse.MAC_REQUEST, "A2DC23DE6FDE0824A2BC321E08E4B8B7"),
    (KeyUse.MAC_RESPONSE, "DBB463945B286C07CD3AD82EE96FD9C9"),
]


def test_the_aes_sample_keys_of_the_standard_hold() -> None:
    initial = aes_initial_key(AES_BDK, aes_ksn(7))
    assert initial.hex().upper() == "1273671EA26AC29AFA4D1084127652A1"
    first = aes_transaction_key(initial, aes_ksn(1))
    assert first.hex().upper() == "4F21B565BAD9835E112B6465635EAE44"
    for use, key in AES_128_WORKING_KEYS:
        assert aes_working_key(first, aes_ksn(1), use).hex().upper() == key


@pytest.mark.parametrize(
    ("counter", "transaction", "pin"),
    [
        (2, "2F34D68DE10F68D38091A73B9E7C437C", "D30BDC73EC9714B000BEC66BDB7B6D09"),
        (3, "031504E530365CF81264238540518318", "7D69F01F3B45449F62C7816ECE723268"),
        (8, "718EE6CF0B27E53D5F7AF99C4D8146A2", "4D9DF3FBEE3448FC3E676D04320A90F5"),
        (0xFFFE4000, "396C2C7CA1EA701C03B86B7D41F0C562", None),
        (0xFFFE8000, "0387625F189B58AE03EF0E8CCA41105E", None),
        (0xFFFF0000, "F6BA59389BD14A9855BE9727E7C52E3C", None),
    ],
)
def test_the_aes_sample_transactions_of_the_standard_hold(counter: int, transaction: str, pin: str | None) -> None:
    serial = aes_ksn(counter)
    key = aes_transaction_key(aes_initial_key(AES_BDK, serial), serial)
    assert key.hex().upper() == transaction
    if pin is not None:
        assert aes_working_key(key, serial, KeyUse.PIN).hex().upper() == pin


def test_the_aes_256_sample_keys_of_the_standard_hold() -> None:
    initial = aes_initial_key(AES_BDK * 2, aes_ksn(1))
    assert initial.hex().upper() == "CE9CE0C101D1138F97FB6CAD4DF045A7083D4EAE2D35A31789D01CCF0949550F"
    first = aes_transaction_key(initial, aes_ksn(1))
    assert first.hex().upper() == "54AC2B32B145EA4A554CB8BC44B17467063A799856B1CCC2A138D36E8DBF78B3"
    pin, mac = (aes_working_key(first, aes_ksn(1), use).hex().upper() for use in (KeyUse.PIN, KeyUse.MAC_REQUEST))
    assert pin == "8C1AB7BEE973829E30242E0BBBDD4946D540C98FC1B5BDCF94790001A23FD502"
    assert mac == "61DABDF4B340CF461EE860B1D1AB55357142BD2D6977306859CF49AEFE8F1549"


def test_an_aes_192_key_gives_keys_of_its_own_length() -> None:
    initial = aes_initial_key((AES_BDK * 2)[:24], aes_ksn(1))
    transaction = aes_transaction_key(initial, aes_ksn(1))
    keys = {aes_working_key(transaction, aes_ksn(1), use) for use in KeyUse}
    assert {len(key) for key in (initial, transaction, *keys)} == {24}
    assert len(keys) == len(KeyUse)


@pytest.mark.parametrize("counter", [0, 0x1FFFF, 0xFFFFFFFF])
def test_an_aes_counter_that_no_terminal_uses_is_refused(counter: int) -> None:
    with pytest.raises(DukptError, match="counter of the key serial number"):
        aes_transaction_key(AES_BDK, aes_ksn(counter))


@pytest.mark.parametrize("size", [0, 8, 10, 11, 13, 16])
def test_an_aes_serial_number_of_another_length_is_refused(size: int) -> None:
    for derive in (aes_initial_key, aes_transaction_key):
        with pytest.raises(DukptError, match=f"has 12 bytes, not {size}"):
            derive(AES_BDK, bytes(size))
    with pytest.raises(DukptError, match=f"has 12 bytes, not {size}"):
        aes_working_key(AES_BDK, bytes(size), KeyUse.PIN)


@pytest.mark.parametrize("size", [0, 8, 15, 17, 33])
def test_an_aes_key_of_another_length_is_refused(size: int) -> None:
    for derive in (aes_initial_key, aes_transaction_key):
        with pytest.raises(DukptError, match=f"for AES has 16, 24 or 32 bytes, not {size}"):
            derive(bytes(size), aes_ksn(1))
    with pytest.raises(DukptError, match=f"for AES has 16, 24 or 32 bytes, not {size}"):
        aes_working_key(bytes(size), aes_ksn(1), KeyUse.PIN)
