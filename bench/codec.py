"""Decode time of a sale beside that of another codec, measured in one run on one machine."""

from __future__ import annotations

import copy
import gc
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import iso8583
import iso8583.specs

from bench.screen import write_json
from protocol.emv import Tlv, build_tlv
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message

ROUNDS: Final = 15
DECODES_PER_ROUND: Final = 3000


def sale_message() -> Message:
    """A chip sale of 21 fields as a UnionPay-style terminal sends it, with a published test card."""
    chip = [
        ("9F26", "0102030405060708"), ("9F27", "80"), ("9F10", "07010103a00000010a010000050000000000"),
        ("9F37", "0a0b0c0d"), ("9F36", "0001"), ("95", "0000000000"), ("9A", "260102"), ("9C", "00"),
        ("9F02", "000000012345"), ("5F2A", "0156"), ("82", "7c00"), ("9F1A", "0156"), ("9F03", "000000000000"),
        ("9F33", "60e9c8"), ("9F34", "030000"), ("9F35", "22"), ("9F1E", "3132333435363738"),
        ("84", "a000000333010102"), ("9F09", "0020"), ("9F41", "00000001"),
    ]  # fmt: skip
    return Message(
        "0200",
        {
            2: "6212345678900000003",
            3: "000000",
            4: "000000012345",
            11: "000042",
            12: "101530",
            13: "0102",
            14: "3012",
            22: "051",
            23: "001",
            25: "00",
            26: "12",
            41: "10000001",
            42: "100000000000001",
            49: "156",
            52: "0000000000000000",
            53: "2600000000000000",
            55: build_tlv(Tlv(tag, bytes.fromhex(value)) for tag, value in chip).hex(),
            60: "2200000100060",
            62: "30" * 24,
            63: "303120",
            64: "0011223344556677",
        },
        bytes.fromhex("6000030000"),
        bytes.fromhex("603100310100"),
    )


def codec_report(frame: bytes | None = None) -> dict[str, Any]:
    """Measure both codecs in turns and take medians.

    Args:
        frame: a UnionPay-style frame without length prefix; the one of `sale_message` where it is None.
    Returns:
        JSON-ready: fields decoded by each, microseconds for one decode, and how many times faster ours is.
    Raises:
        CodecError: the frame is none of the dialect.
    """
    codec = load_dialect("unionpay").codec
    ours = codec.encode(sale_message()) if frame is None else frame
    message = codec.decode(ours)
    spec, theirs = _peer_frame(message)
    ours_us: list[float] = []
    encode_us: list[float] = []
    peer_us: list[float] = []
    for _ in range(ROUNDS):  # in turns, so that a busy moment of the machine falls on all
        ours_us.append(_time_us(lambda: codec.decode(ours)))
        encode_us.append(_time_us(lambda: codec.encode(message)))
        peer_us.append(_time_us(lambda: iso8583.decode(theirs, spec)))
    return {
        "fields": len(message.fields),
        "frame_bytes": len(ours),
        "decode_us": round(statistics.median(ours_us), 2),
        "encode_us": round(statistics.median(encode_us), 2),
        "peer": f"pyiso8583 {iso8583.__version__}",
        "peer_fields": len(message.fields),
        "peer_frame_bytes": len(theirs),
        "peer_decode_us": round(statistics.median(peer_us), 2),
        "times_faster": round(statistics.median(p / o for p, o in zip(peer_us, ours_us, strict=True)), 2),
        "rounds": ROUNDS,
        "decodes_per_round": DECODES_PER_ROUND,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def run(json_path: Path | None = None, frame_hex: str | None = None) -> dict[str, Any]:
    """Print the report and, where a path is given, write it as JSON."""
    report = codec_report(bytes.fromhex(frame_hex) if frame_hex else None)
    print(f"decode  {report['decode_us']:8.2f} us  {report['fields']} fields, {report['frame_bytes']} bytes")
    print(f"encode  {report['encode_us']:8.2f} us")
    print(f"decode  {report['peer_decode_us']:8.2f} us  {report['peer']}, as many fields")
    print(f"{report['times_faster']} times faster; medians of {ROUNDS} rounds in turns")
    write_json(json_path, report)
    return report


def _peer_frame(message: Message) -> tuple[dict[str, Any], bytes]:
    """The same fields packed in the same way for pyiso8583: its dialect and the frame that it makes."""
    dialect = load_dialect("unionpay")
    spec: dict[str, Any] = copy.deepcopy(dict(iso8583.specs.default))
    document = {"t": message.mti}
    for number, value in message.fields.items():
        field = dialect.fields[number]
        packed = not field.is_text
        spec[str(number)] = {
            "data_enc": "b" if packed else "latin-1",
            "len_enc": "bcd",
            "len_type": (field.prefix_digits + 1) // 2,
            "max_len": field.length,
            "len_count": "nibbles" if field.is_packed else "bytes",
            f"{field.pad}_pad": field.pad_nibble,
            "desc": field.name,
        }
        document[str(number)] = value.replace("=", "D").upper() if packed else value
    encoded, _ = iso8583.encode(document, spec)
    return spec, bytes(encoded)


def _time_us(work: Callable[[], object]) -> float:
    """Microseconds for one call, over enough calls for the clock; the collector rests as in timeit."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter_ns()
        for _ in range(DECODES_PER_ROUND):
            work()
        return (time.perf_counter_ns() - start) / DECODES_PER_ROUND / 1000
    finally:
        if collecting:
            gc.enable()
