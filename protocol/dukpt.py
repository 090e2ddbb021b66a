"""Derived unique key per transaction (DUKPT): the host's side, from base derivation key to working keys.

A terminal holds an initial key that was derived from the base derivation key (BDK) and its own serial number. For each
transaction it derives a fresh key from the initial key and a counter, and sends both as the key serial number (KSN).
The host, which holds only the BDK, does the same derivation:

    BDK, KSN -> initial key -> (one step per one bit of the counter) -> transaction key -> working key per use

Two generations: TDES (ANSI X9.24-1, KSN of 10 bytes) and AES (ANSI X9.24-3, KSN of 12 bytes; functions named `aes_`).
All functions are pure; no result is kept.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, assert_never

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from protocol.tdes import DOUBLE_BYTES, SINGLE_BYTES, ecb_encrypt

KSN_BYTES: Final = 10
_COUNTER_BITS: Final = 21
_COUNTER_MASK: Final = (1 << _COUNTER_BITS) - 1
_COUNTER_ONES_MAX: Final = 10

AES_KSN_BYTES: Final = 12
_INITIAL_KEY_ID_BYTES: Final = 8
_AES_COUNTER_BITS: Final = 32
_AES_COUNTER_ONES_MAX: Final = 16


class DukptError(ValueError):
    """A key or KSN that no derivation can start from; names lengths and counters, never a key."""


class KeyUse(StrEnum):
    """What a working key is for. Request and response are seen from the terminal: what it sends, what it gets."""

    PIN = "pin"
    MAC_REQUEST = "mac-request"
    MAC_RESPONSE = "mac-response"


# --- TDES, X9.24-1 ---------------------------------------------------------------------------------------------------

# XORed with each half where one step makes two keys (X9.24-1:2009, annex A).
_DERIVING_VARIANT: Final = bytes.fromhex("C0C0C0C000000000") * 2


def initial_key(bdk: bytes, ksn: bytes) -> bytes:
    """The key that the terminal with this serial number was loaded with (also called IPEK).

    Args:
        bdk: 16 bytes.
        ksn: 10 bytes, a shorter one padded with FF in front; its counter is disregarded.
    Returns:
        16 bytes.
    Raises:
        DukptError: the length of either.
    Source: ANSI X9.24-1:2009, annex A.
    """
    _check_length("a base derivation key", bdk, DOUBLE_BYTES)
    register = (_ksn_number(ksn) & ~_COUNTER_MASK).to_bytes(KSN_BYTES)[:SINGLE_BYTES]
    return ecb_encrypt(bdk, register) + ecb_encrypt(_xored(bdk, _DERIVING_VARIANT), register)


def transaction_counter(ksn: bytes) -> int:
    """The 21-bit counter in a KSN: how far the terminal has come; 0 before its first transaction.

    Raises:
        DukptError: not 10 bytes.
    """
    return _ksn_number(ksn) & _COUNTER_MASK


def transaction_key(initial: bytes, ksn: bytes) -> bytes:
    """The key of one transaction, from which `working_key` makes those that are used.

    Args:
        initial: the terminal's initial key, 16 bytes.
        ksn: 10 bytes, as sent with the transaction.
    Returns:
        16 bytes.
    Raises:
        DukptError: a length; a counter of 0, or with more than ten one bits: terminals skip those.
    Source: ANSI X9.24-1:2009, annex A (non-reversible key generation).
    """
    _check_length("an initial key", initial, DOUBLE_BYTES)
    number = _ksn_number(ksn)
    register = number & ~_COUNTER_MASK
    key = initial
    for bit in _one_bits(number & _COUNTER_MASK, _COUNTER_BITS, _COUNTER_ONES_MAX):
        register |= bit
        key = _next_key(key, register.to_bytes(KSN_BYTES)[-SINGLE_BYTES:])
    return key


def working_key(transaction: bytes, use: KeyUse) -> bytes:
    """The variant of a transaction key for one use.

    Args:
        transaction: 16 bytes, from `transaction_key`.
    Returns:
        16 bytes: a TDES key for PIN blocks, or a key for the X9.19 MAC.
    Raises:
        DukptError: the length.
    Source: ANSI X9.24-1:2009, annex A (variants).
    """
    _check_length("a transaction key", transaction, DOUBLE_BYTES)
    return _xored(transaction, _variant(use) * 2)


def _variant(use: KeyUse) -> bytes:
    match use:
        case KeyUse.PIN:
            return bytes.fromhex("00000000000000FF")
        case KeyUse.MAC_REQUEST:
            return bytes.fromhex("000000000000FF00")
        case KeyUse.MAC_RESPONSE:
            return bytes.fromhex("00000000FF000000")
        case _:
            assert_never(use)


def _next_key(key: bytes, register: bytes) -> bytes:
    """One non-reversible step: the right half of the result under the key, the left half under its variant."""
    return _half(_xored(key, _DERIVING_VARIANT), register) + _half(key, register)


def _half(key: bytes, register: bytes) -> bytes:
    left, right = key[:SINGLE_BYTES], key[SINGLE_BYTES:]
    return _xored(ecb_encrypt(left, _xored(register, right)), right)


def _ksn_number(ksn: bytes) -> int:
    _check_length("a key serial number", ksn, KSN_BYTES)
    return int.from_bytes(ksn)


# --- AES, X9.24-3 ----------------------------------------------------------------------------------------------------

_DERIVING: Final = 0x8000
_DERIVING_INITIAL: Final = 0x8001

# Key type in the derivation data, by length of key.
_AES_TYPES: Final = {16: 2, 24: 3, 32: 4}


def aes_initial_key(bdk: bytes, ksn: bytes) -> bytes:
    """The key that the terminal with this initial key id was loaded with.

    Args:
        bdk: 16, 24 or 32 bytes; the initial key is of the same length.
        ksn: 12 bytes: initial key id 8, counter 4, which is disregarded.
    Raises:
        DukptError: the length of either.
    Source: ANSI X9.24-3:2017.
    """
    _check_aes_length("a base derivation key", bdk)
    _check_length("a key serial number for AES", ksn, AES_KSN_BYTES)
    return _aes_derived(bdk, _DERIVING_INITIAL, ksn[:_INITIAL_KEY_ID_BYTES])


def aes_transaction_key(initial: bytes, ksn: bytes) -> bytes:
    """The derivation key of one transaction, from which `aes_working_key` makes those that are used.

    Args:
        initial: from `aes_initial_key`.
        ksn: 12 bytes, as sent with the transaction.
    Returns:
        As many bytes as `initial` has.
    Raises:
        DukptError: a length; a counter of 0, or with more than sixteen one bits: terminals skip those.
    Source: ANSI X9.24-3:2017.
    """
    _check_aes_length("an initial key", initial)
    _check_length("a key serial number for AES", ksn, AES_KSN_BYTES)
    counter = int.from_bytes(ksn[_INITIAL_KEY_ID_BYTES:])
    key = initial
    reached = 0
    for bit in _one_bits(counter, _AES_COUNTER_BITS, _AES_COUNTER_ONES_MAX):
        reached |= bit
        key = _aes_derived(key, _DERIVING, ksn[4:_INITIAL_KEY_ID_BYTES] + reached.to_bytes(4))
    return key


def aes_working_key(transaction: bytes, ksn: bytes, use: KeyUse) -> bytes:
    """An AES key for one use, of the same length as the transaction key.

    Raises:
        DukptError: the length of either.
    Source: ANSI X9.24-3:2017.
    """
    _check_aes_length("a transaction key", transaction)
    _check_length("a key serial number for AES", ksn, AES_KSN_BYTES)
    return _aes_derived(transaction, _aes_usage(use), ksn[4:])


def _aes_usage(use: KeyUse) -> int:
    match use:
        case KeyUse.PIN:
            return 0x1000
        case KeyUse.MAC_REQUEST:  # the standard's "MAC generation", by the terminal
            return 0x2000
        case KeyUse.MAC_RESPONSE:  # "MAC verification"
            return 0x2001
        case _:
            assert_never(use)


def _aes_derived(key: bytes, usage: int, context: bytes) -> bytes:
    """As many bytes as `key` has: derivation data with a running block number, encrypted under it.

    Args:
        context: 8 bytes: the initial key id, or the right half of that and the counter.
    """
    size = len(key)
    tail = usage.to_bytes(2) + _AES_TYPES[size].to_bytes(2) + (size * 8).to_bytes(2) + context
    blocks = b"".join(b"\x01" + number.to_bytes() + tail for number in range(1, -(-size // 16) + 1))
    derive = Cipher(AES(key), ECB()).encryptor()  # noqa: S305  the standard's derivation: no two blocks are the same
    return derive.update(blocks)[:size]


# --- both ------------------------------------------------------------------------------------------------------------


def _one_bits(counter: int, bits: int, ones_max: int) -> list[int]:
    """The counter's one bits, the highest first; one derivation step each."""
    if counter == 0:
        raise DukptError("the counter of the key serial number is 0: no transaction has that key")
    if counter.bit_count() > ones_max:
        raise DukptError(f"the counter of the key serial number has more than {ones_max} one bits: terminals skip it")
    return [1 << place for place in reversed(range(bits)) if counter >> place & 1]


def _check_length(what: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise DukptError(f"{what} has {size} bytes, not {len(value)}")


def _check_aes_length(what: str, key: bytes) -> None:
    if len(key) not in _AES_TYPES:
        raise DukptError(f"{what} for AES has 16, 24 or 32 bytes, not {len(key)}")


def _xored(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
