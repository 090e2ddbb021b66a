"""Frames recorded from real terminals decode to the values computed by others, and come back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.iso8583.dialect import load_dialect

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "unionpay_frames.json"


def recorded() -> list[Any]:
    if not VECTORS.exists():
        return []
    frames: list[Any] = json.loads(VECTORS.read_text(encoding="utf-8"))["frames"]
    return frames


@pytest.mark.skipif(not recorded(), reason="the recorded frames are not beside this checkout")
@pytest.mark.parametrize("vector", recorded(), ids=lambda vector: vector["name"])
def test_a_recorded_frame_has_its_values_and_comes_back_the_same(vector: dict[str, Any]) -> None:
    codec = load_dialect("unionpay").codec
    frame = bytes.fromhex(vector["hex"])
    message = codec.decode(frame)
    assert message.tpdu.hex() == vector["tpdu"]
    assert message.header.hex() == vector["header"]
    assert message.mti == vector["mti"]
    assert {str(number): value for number, value in message.fields.items()} == vector["fields"]
    assert codec.encode(message) == frame
