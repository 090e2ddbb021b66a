"""Work keys in DE 62 of a UnionPay sign-on answer: encrypted under the terminal master key (TMK), with check values.

| DE 60.3           | bytes | PIN key | MAC key      | track key |
|-------------------|-------|---------|--------------|-----------|
| 001 single-length | 24    | 8 + 4   | 8 + 4        |           |
| 003 double-length | 40    | 16 + 4  | 16 + 4       |           |
| 004 with track    | 60    | 16 + 4  | 16 + 4       | 16 + 4    |

Each entry is the key encrypted under the TMK (ECB, DES or TDES by the TMK's length), then its check value: the first
bytes of a block of zeros encrypted under the key in clear, with DES or TDES by the key's own length. The MAC key's 16
bytes are either a double-length key or, as UnionPay describes, a single-length key encrypted (8 bytes) and 8 zero
bytes of padding that are *not* encrypted; eight zero bytes there always mean the latter.

The lengths differ where a make has another size of check value: with 3 bytes they are 22, 38 and 57. The field's length
says which layout it is; that it is the one asked for in DE 60.3 is the caller's to compare.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Final

from protocol.tdes import (
    DOUBLE_BYTES,
    SINGLE_BYTES,
    TRIPLE_BYTES,
    check_value,
    ecb_decrypt,
    ecb_encrypt,
)

CHECK_VALUE_BYTES: Final = 4
_CHECK_VALUE_BYTES_MIN: Final = 3  # fewer let a wrong key pass too often
_PADDING: Final = bytes(DOUBLE_BYTES - SINGLE_BYTES)

# Lengths of key per entry, in the field's order.
_SINGLE: Final = {"pin": SINGLE_BYTES, "mac": SINGLE_BYTES}
_DOUBLE: Final = {"pin": DOUBLE_BYTES, "mac": DOUBLE_BYTES}
_TRACK: Final = {"pin": DOUBLE_BYTES, "mac": DOUBLE_BYTES, "track": DOUBLE_BYTES}
_LAYOUTS: Final = (_SINGLE, _DOUBLE, _TRACK)


class WorkKeyError(ValueError):
    """Work keys that must not be used; none of them is. The message holds no key.

    Attributes:
        failed: the keys whose check values do not match, of "pin", "mac", "track"; all of them most likely means
            another TMK. Empty where a length is wrong.
    """

    def __init__(self, reason: str, failed: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.failed = failed


@dataclass(frozen=True, slots=True)
class WorkKeys:
    """A session's keys in clear; not shown by repr.

    Attributes:
        pin: for PIN blocks; 8 or 16 bytes.
        mac: for field 64; 8 or 16 bytes.
        track: for track data; 16 bytes, or None where tracks are not encrypted.
    """

    pin: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    track: bytes | None = field(default=None, repr=False)


def open_work_keys(tmk: bytes, field_62: bytes, check_value_bytes: int = CHECK_VALUE_BYTES) -> WorkKeys:
    """The keys of a sign-on answer, each proven by its check value.

    Args:
        tmk: the terminal master key, 8, 16 or 24 bytes.
        field_62: DE 62 without its length.
        check_value_bytes: 3 to 8; profile data.
    Raises:
        WorkKeyError: a length that is no layout's, a check value that does not match (`failed` names each), or a TMK
            or `check_value_bytes` out of range.
    Source: DOMAIN.md, UnionPay session.
    """
    _check_arguments(tmk, check_value_bytes)
    layout = _layout_of(len(field_62), check_value_bytes)
    opened = {}
    failed = []
    at = 0
    for name, size in layout.items():
        end = at + size
        key = _opened(tmk, name, field_62[at:end])
        at = end + check_value_bytes
        if not hmac.compare_digest(check_value(key, check_value_bytes), field_62[end:at]):
            failed.append(name)
        opened[name] = key
    if failed:
        raise WorkKeyError(f"check value does not match: {', '.join(failed)} key", tuple(failed))
    return WorkKeys(opened["pin"], opened["mac"], opened.get("track"))


def seal_work_keys(tmk: bytes, keys: WorkKeys, check_value_bytes: int = CHECK_VALUE_BYTES) -> bytes:
    """DE 62 of a sign-on answer, without its length; `open_work_keys` gives `keys` back.

    Two single-length keys make the first layout, a double-length PIN key the second (the MAC key of either length), a
    track key the third.

    Args:
        tmk: the terminal master key, 8, 16 or 24 bytes.
        check_value_bytes: 3 to 8; profile data.
    Raises:
        WorkKeyError: lengths of keys that no layout has, or a TMK or `check_value_bytes` out of range.
    """
    _check_arguments(tmk, check_value_bytes)
    named = {"pin": keys.pin, "mac": keys.mac}
    if keys.track is not None:
        named["track"] = keys.track
    layout = _layout_for({name: len(key) for name, key in named.items()})
    return b"".join(
        ecb_encrypt(tmk, key).ljust(layout[name], b"\0") + check_value(key, check_value_bytes)
        for name, key in named.items()
    )


def _opened(tmk: bytes, name: str, sealed: bytes) -> bytes:
    if name == "mac" and sealed[SINGLE_BYTES:] == _PADDING:
        sealed = sealed[:SINGLE_BYTES]
    return ecb_decrypt(tmk, sealed)


def _layout_of(size: int, check_value_bytes: int) -> dict[str, int]:
    by_size = {sum(layout.values()) + len(layout) * check_value_bytes: layout for layout in _LAYOUTS}
    if size not in by_size:
        raise WorkKeyError(f"DE 62 with work keys has {', '.join(map(str, by_size))} bytes, not {size}")
    return by_size[size]


def _layout_for(sizes: dict[str, int]) -> dict[str, int]:
    padded = sizes
    if sizes["pin"] == DOUBLE_BYTES and sizes["mac"] == SINGLE_BYTES:
        padded = sizes | {"mac": DOUBLE_BYTES}
    for layout in _LAYOUTS:
        if layout == padded:
            return layout
    shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
    raise WorkKeyError(f"no layout of DE 62 has keys of these lengths in bytes: {shown}")


def _check_arguments(tmk: bytes, check_value_bytes: int) -> None:
    if len(tmk) not in (SINGLE_BYTES, DOUBLE_BYTES, TRIPLE_BYTES):
        raise WorkKeyError(f"a terminal master key has 8, 16 or 24 bytes, not {len(tmk)}")
    if not _CHECK_VALUE_BYTES_MIN <= check_value_bytes <= SINGLE_BYTES:
        raise WorkKeyError(f"a check value has 3 to 8 bytes, not {check_value_bytes}")
