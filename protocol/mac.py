"""Message authentication codes: what stands in field 64 (or 128), and whether it is right.

A MAC covers the message from its MTI through the last field before 64 or 128, without TPDU and header (the MAC element
block, MAB). The four methods differ in cipher and chaining; all pad the message with zero bytes to whole blocks except
AES-CMAC, which has its own padding. Zero padding means that a message and the same message with zero bytes appended
have the same MAC: the codec must refuse bytes behind the last field.

| method       | key bytes    | field 64, always 8 bytes                                                       |
|--------------|--------------|--------------------------------------------------------------------------------|
| unionpay-ecb | 8 or 16      | 8 ASCII characters of upper-case hex: the first 4 bytes of the result          |
| x9.9         | 8            | binary: DES CBC-MAC (ISO 9797-1 algorithm 1)                                   |
| x9.19        | 16           | binary: retail MAC, DES chaining and TDES for the last block (algorithm 3)     |
| aes-cmac     | 16, 24 or 32 | binary: the leftmost 8 of 16 bytes (NIST SP 800-38B)                           |
| none         | 0            | no field 64; nothing but an empty MAC passes                                   |

X9.9 and X9.19 allow a MAC of 4 bytes; a host that wants one takes the first four of these.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from functools import reduce
from operator import xor
from typing import Final, assert_never

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.cmac import CMAC

from protocol.mac_method import MacMethod
from protocol.tdes import BLOCK_BYTES, SINGLE_BYTES, ZERO_BLOCK, ecb, tdes

MAC_BYTES: Final = 8


MAC_KEY_BYTES: Final = {
    MacMethod.UNIONPAY_ECB: (8, 16),
    MacMethod.X9_9: (8,),
    MacMethod.X9_19: (16,),
    MacMethod.AES_CMAC: (16, 24, 32),
    MacMethod.NONE: (0,),
}
"""Lengths of key that a method takes."""


class MacKeyError(ValueError):
    """The key cannot serve the method: a mistake in configuration, or work keys of another kind. Holds no key."""


class MacInputError(ValueError):
    """The frame is too short to hold a MAC: the peer's fault. Holds nothing of the frame."""


class MacKey:
    """A key made ready for many messages under one method: the cipher's key schedule is computed once.

    Keeps nothing between messages. Meant for one thread (an event loop): two must not use it at the same time.
    """

    __slots__ = ("_mac", "method")

    def __init__(self, method: MacMethod, key: bytes) -> None:
        """Prepare `key` for `method`.

        Raises:
            MacKeyError: the method does not take a key of this length (`MAC_KEY_BYTES`).
        """
        allowed = MAC_KEY_BYTES[method]
        if len(key) not in allowed:
            lengths = " or ".join(map(str, allowed))
            raise MacKeyError(f"MAC method {method} takes a key of {lengths} bytes, not {len(key)}")
        self.method: Final = method
        self._mac: Final = _prepared(method, key)

    def __repr__(self) -> str:
        return f"MacKey({self.method})"

    def compute(self, data: bytes) -> bytes:
        """The content of field 64 for a message.

        Args:
            data: MTI through the last field before the MAC (see `mac_input`). No bytes count as one block of zeros.
        Returns:
            8 bytes, or none where the method is `none`.
        """
        return self._mac(data)

    def verify(self, data: bytes, mac: bytes) -> bool:
        """Whether `mac`, as it stood in field 64, belongs to `data`; takes the same time wherever they differ.

        A MAC of another length, or hex in lower case under `unionpay-ecb`, does not pass. Under `none` only an empty
        MAC passes: one that nobody can check is not accepted.
        """
        return hmac.compare_digest(self._mac(data), mac)


def compute_mac(method: MacMethod, key: bytes, data: bytes) -> bytes:
    """The content of field 64 for one message; `MacKey` is cheaper for many.

    Raises:
        MacKeyError: the method does not take a key of this length.
    """
    return MacKey(method, key).compute(data)


def verify_mac(method: MacMethod, key: bytes, data: bytes, mac: bytes) -> bool:
    """Whether `mac` belongs to `data`, in constant time; see `MacKey.verify`.

    Raises:
        MacKeyError: the method does not take a key of this length.
    """
    return MacKey(method, key).verify(data, mac)


def mac_input(frame: bytes, prefix_bytes: int, mac_bytes: int = MAC_BYTES) -> bytes:
    """The part of a frame that its MAC covers: MTI through the last field before 64 or 128.

    To verify, give it the frame as received; to make a MAC, the message encoded with a placeholder of `mac_bytes` in
    field 64, so that the bitmap, which is covered, already names the field.

    Args:
        frame: one message without the stream's length prefix, whose last field is the MAC. Whether it carries one is
            the bitmap's to say: here the last bytes are cut off whatever they are.
        prefix_bytes: bytes of TPDU and header in front of the MTI (UnionPay: 5 + 6).
        mac_bytes: bytes that the MAC takes in the frame.
    Raises:
        MacInputError: nothing is left between prefix and MAC.
    Source: UnionPay POS terminals, MAB.
    """
    end = len(frame) - mac_bytes
    if end <= prefix_bytes:
        raise MacInputError(f"a frame of {len(frame)} bytes has no message between prefix and MAC")
    return frame[prefix_bytes:end]


def _prepared(method: MacMethod, key: bytes) -> Callable[[bytes], bytes]:
    match method:
        case MacMethod.UNIONPAY_ECB:
            return _unionpay_ecb(key)
        case MacMethod.X9_9:
            return _cbc_mac(key, key)
        case MacMethod.X9_19:
            return _cbc_mac(key[:SINGLE_BYTES], key)
        case MacMethod.AES_CMAC:
            return _aes_cmac(key)
        case MacMethod.NONE:
            return _no_mac
        case _:
            assert_never(method)


def _padded(data: bytes) -> bytes:
    """`data` with zero bytes up to whole blocks, at least one (ISO 9797-1 padding method 1)."""
    return data.ljust(max(1, -(-len(data) // BLOCK_BYTES)) * BLOCK_BYTES, b"\0")


def _unionpay_ecb(key: bytes) -> Callable[[bytes], bytes]:
    """UnionPay's ECB method: all blocks XORed, the result encrypted twice as hex.

    The XOR as 16 characters of hex; the first 8 encrypted, XORed with the last 8, encrypted again; of that as hex, the
    first 8 characters. DES with a single-length key, TDES with a double-length one. As blocks are only XORed, it does
    not see two of them swapped: that is the method's weakness, not this code's.
    """
    encrypt = ecb(key).encryptor().update

    def mac(data: bytes) -> bytes:
        padded = _padded(data)
        folded = b"%016X" % reduce(xor, struct.unpack(f">{len(padded) // BLOCK_BYTES}Q", padded))
        return encrypt(_xored(encrypt(folded[:BLOCK_BYTES]), folded[BLOCK_BYTES:])).hex()[:MAC_BYTES].upper().encode()

    return mac


def _cbc_mac(chain_key: bytes, last_key: bytes) -> Callable[[bytes], bytes]:
    """CBC-MAC from a zero vector: `chain_key` for all blocks but the last, `last_key` for that one.

    The same single-length key twice is X9.9; the left half, then the double-length key is X9.19 (to encrypt, decrypt
    and encrypt the last block is one TDES operation).
    """
    chain = Cipher(tdes(chain_key), CBC(ZERO_BLOCK))
    encrypt_last = ecb(last_key).encryptor().update

    def mac(data: bytes) -> bytes:
        padded = _padded(data)
        # A fresh encryptor: chaining is state, and must start from zero for each message.
        before = chain.encryptor().update(padded[:-BLOCK_BYTES])[-BLOCK_BYTES:] or ZERO_BLOCK
        return encrypt_last(_xored(before, padded[-BLOCK_BYTES:]))

    return mac


def _aes_cmac(key: bytes) -> Callable[[bytes], bytes]:
    keyed = CMAC(AES(key))

    def mac(data: bytes) -> bytes:
        message = keyed.copy()
        message.update(data)
        return message.finalize()[:MAC_BYTES]

    return mac


def _no_mac(_data: bytes) -> bytes:
    return b""


def _xored(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(BLOCK_BYTES)
