"""Inputs for hypothesis: bytes that are wholly random, and seeds with a few wounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypothesis import strategies as st

_WOUNDS_MAX: Final = 4
_CHARGED: Final = (b"\x00", b"\xff", b"\x80", b"\x7f", b"0", b"9", b"[", b"{", b'"', b"\\", b"=", b".", b"\n", b"|")
"""Bytes that mean something to some reader."""


@st.composite
def wounded(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed in which a few places were overwritten, cut out, filled in, doubled or put together with another seed."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, _WOUNDS_MAX))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.sampled_from(("overwrite", "cut", "fill", "double", "join", "end"))):
            case "overwrite":
                data[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
            case "cut":
                del data[at:end]
            case "fill":
                data[at:at] = draw(st.sampled_from(_CHARGED) | st.binary(max_size=8)) * draw(st.integers(1, 40))
            case "double":
                data[at:at] = data[at:end]
            case "join":
                data[at:] = draw(st.sampled_from(seeds))[at:]
            case "end":
                del data[at:]
    return bytes(data)


def hostile(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """What a reader is fed."""
    return wounded(seeds) | st.binary(max_size=120)
