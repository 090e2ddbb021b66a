"""A canary is found in every encoding, wherever it lies; nothing where none was planted; and none is ever shown."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import os
import random
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.audit.canaries import CanaryWrong, canaries_of
from gateway.audit.shredding import CHUNK_BYTES, FINDINGS_MAX, Search, Searched, Seeker, files_under

PAN: Final = "6212345678900000003"
SHORT_PAN: Final = "378282246310005"
TRACK: Final = "4012888888881881=30122019876543210123"
PIN_BLOCK: Final = "a1b2c3d4e5f60718"
CANARIES: Final = (PAN, SHORT_PAN, TRACK, PIN_BLOCK)
MADE: Final = canaries_of(CANARIES)


def packed(digits: str, fill: str) -> bytes:
    """Two digits a byte, filled up in front or behind to whole bytes."""
    return bytes.fromhex(digits if len(digits) % 2 == 0 else digits + fill)


def spelt(text: str) -> dict[str, bytes]:
    """A canary as other software would write it; made without the code under test."""
    digits = text.replace("=", "d")
    shifted = packed("7" + digits, "f")
    swapped = bytes(int(f"{byte:02x}"[::-1], 16) for byte in packed(digits, "f"))
    found = {
        "text": text.encode(),
        "text within digits": f"99{text}99".encode(),
        "EBCDIC": text.encode("cp500"),
        "UTF-16 LE": text.encode("utf-16-le"),
        "UTF-16 BE": text.encode("utf-16-be"),
        "hex": text.encode().hex().encode(),
        "HEX": text.encode().hex().upper().encode(),
        "hex of EBCDIC": text.encode("cp500").hex().upper().encode(),
        "hex of UTF-16": text.encode("utf-16-le").hex().encode(),
        "hex of packed": packed(digits, "f").hex().encode(),
        "HEX of packed": packed(digits, "f").hex().upper().encode(),
        "packed": packed(digits, "0"),
        "packed, F behind": packed(digits, "f"),
        "packed, shifted": shifted,
        "packed, shifted, D behind": packed("0" + digits, "d"),
        "packed, swapped": swapped,
        "base64 of hex": base64.b64encode(packed(digits, "f")),
    }
    for before in range(3):
        for name, raw in (("text", text.encode()), ("packed", packed(digits, "f")), ("shifted", shifted)):
            around = b"\xfb\xef\xbe"[:before] + raw + b"\xff\xfe"
            found[f"base64 of {name} at {before}"] = base64.b64encode(around)
            found[f"base64url of {name} at {before}"] = base64.urlsafe_b64encode(around)
    if text.isdigit():
        size = (int(text).bit_length() + 7) // 8
        found["integer"] = int(text).to_bytes(8, "big")
        found["little integer"] = int(text).to_bytes(size, "little")
        found["groups"] = " ".join(text[at : at + 4] for at in range(0, len(text), 4)).encode()
        found["dashes"] = "-".join(text[at : at + 4] for at in range(0, len(text), 4)).encode()
    if "=" in text:
        found["D"] = text.replace("=", "D").encode()
        found["percent"] = text.replace("=", "%3D").encode()
        found["UTF-16 with D"] = text.replace("=", "D").encode("utf-16-be")
    if text == SHORT_PAN:
        found["groups of an American card"] = f"{text[:4]} {text[4:10]} {text[10:]}".encode()
    return found


def planted() -> list[tuple[int, str, bytes]]:
    """Each canary in each encoding: its number, the encoding, the bytes."""
    return [(number, name, raw) for number, text in enumerate(CANARIES, 1) for name, raw in spelt(text).items()]


def searched(*paths: Path, canaries: tuple[str, ...] = CANARIES) -> Searched:
    """What a search of these paths comes to."""
    return Search(MADE if canaries == CANARIES else canaries_of(canaries)).run(list(files_under(paths)))


@pytest.mark.parametrize(("number", "name", "raw"), planted(), ids=[f"{n}-{name}" for n, name, _ in planted()])
def test_a_canary_is_found_in_each_encoding_at_each_alignment(
    tmp_path: Path, number: int, name: str, raw: bytes
) -> None:
    dice = random.Random(f"{number}/{name}")
    for shift in range(4):
        noise = dice.randbytes(1000 + shift)
        (tmp_path / "file").write_bytes(noise + raw + dice.randbytes(100))
        result = searched(tmp_path / "file")
        assert number in {place.canary for place in result.found}, f"{name}, shifted by {shift}"
        whole = [place for place in result.found if place.canary == number]
        assert all(len(noise) - 2 <= place.offset < len(noise) + len(raw) for place in whole), whole


@settings(max_examples=60, deadline=None)
@given(
    which=st.sampled_from(planted()),
    at=st.one_of(st.integers(0, 3 * CHUNK_BYTES), st.integers(-200, 200).map(lambda near: CHUNK_BYTES + near)),
    pieces=st.integers(1_000, CHUNK_BYTES),
)
@example(which=planted()[0], at=70, pieces=1)
def test_a_canary_is_found_once_wherever_it_lies_among_the_chunks(
    which: tuple[int, str, bytes], at: int, pieces: int
) -> None:
    number, _, raw = which
    content = bytes(at) + raw + bytes(5)
    found = list(Seeker(MADE).seek(Slow(content, pieces)))
    assert number in {form.canary for form, _ in found}
    assert len(found) == len(set(found)), "told twice"
    assert found
    assert all(at - 2 <= offset < at + len(raw) for _, offset in found)


class Slow(io.BytesIO):
    """A stream that gives fewer bytes than it is asked for, as pipes and decompressors do."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self._most = most

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self._most if size is None or size < 0 else min(size, self._most))


def test_nothing_is_found_in_noise_and_in_text_without_canaries(tmp_path: Path) -> None:
    dice = random.Random(7)
    (tmp_path / "noise").write_bytes(dice.randbytes(8 << 20))
    lines = (f'{{"at": "2026-11-22T05:{n % 60:02}", "card": "621234******0003", "n": {n}}}\n' for n in range(20_000))
    (tmp_path / "log").write_text("".join(lines))
    result = searched(tmp_path)
    assert result.clean, result.found
    assert result.files == 2
    assert result.searched_bytes > 8 << 20


@pytest.mark.parametrize("cut", [(0, -1), (1, None)])
def test_a_part_of_a_canary_is_no_canary(tmp_path: Path, cut: tuple[int, int | None]) -> None:
    for text in CANARIES:
        digits = text.replace("=", "d")[slice(*cut)]
        (tmp_path / "text").write_bytes(text[slice(*cut)].encode())
        # What stands at its end is another digit than the canary's own.
        (tmp_path / "packed").write_bytes(packed("e" + digits + "e", "e"))
        (tmp_path / "shifted").write_bytes(packed("ee" + digits + "e", "e"))
        assert searched(tmp_path, canaries=(text,)).clean


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


Wrap = Callable[[bytes], bytes]
WRAPPINGS: Final[dict[str, Wrap]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": lambda raw: zipped("a/b", raw),
    "tar.gz": lambda raw: gzip.compress(tarred("a/b", raw)),
    "tar.xz in zip": lambda raw: zipped("x.tar.xz", lzma.compress(tarred("a/b", raw))),
    "zip in tar.gz": lambda raw: gzip.compress(tarred("inner.zip", zipped("a/b", raw))),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_canary_is_found_within_archives_and_the_member_is_named(tmp_path: Path, wrapping: str) -> None:
    content = random.Random(3).randbytes(5000) + PAN.encode() + bytes(300)
    (tmp_path / "backup").write_bytes(WRAPPINGS[wrapping](content))
    result = searched(tmp_path)
    headers = (
        512 if "tar" in wrapping and "zip in" not in wrapping else 0
    )  # a plain member is told by its place in the tar
    assert [(place.canary, place.offset) for place in result.found] == [(1, 5000 + headers)]
    assert result.found[0].member
    assert not result.not_searched


def test_an_archive_that_cannot_be_read_or_lies_too_deep_is_told_and_not_clean(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(random.Random(1).randbytes(5000))[:-100])
    deep = b"nothing"
    for _ in range(6):
        deep = gzip.compress(deep)
    (tmp_path / "deep").write_bytes(deep)
    result = searched(tmp_path)
    assert not result.found
    assert not result.clean
    told = " ".join(f"{where} {why}" for where, why in result.not_searched)
    assert "cut.gz" in told
    assert "more than 3 others" in told


def test_folders_are_searched_to_the_bottom_and_links_only_if_named(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / "file").write_text(PAN)
    (tmp_path / "elsewhere").write_text(PAN)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert [place.file for place in searched(tmp_path / "a").found] == [str(below / "file")]
    assert searched(tmp_path / "a" / "link").found_count == 1
    with pytest.raises(FileNotFoundError):
        searched(tmp_path / "gone")


def test_a_canary_in_a_name_is_found_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / f"card-{PAN}.json").write_text("{}")
    (tmp_path / "kit.zip").write_bytes(zipped(f"cards/{PAN}", b"x"))
    result = searched(tmp_path)
    told = [(Path(place.file).suffix, place.member, place.offset < 0) for place in result.found]
    assert (".json", "", True) in told
    assert (".zip", "cards/<canary 1>", True) in told
    shown = repr(result.found) + repr(result.not_searched)
    assert PAN not in shown
    assert "<canary 1>" in shown


def test_a_canary_is_never_in_a_repr_or_an_error() -> None:
    made = canaries_of(CANARIES)
    assert all(text not in repr(made) for text in CANARIES)
    for wrong in (["1234567"], ["8" * 16], ["", "# a remark"], ["1" * 5000]):
        with pytest.raises(CanaryWrong) as told:
            canaries_of(wrong)
        assert not wrong[0] or wrong[0] not in str(told.value)


def test_a_thousand_places_of_one_file_are_counted_and_the_first_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"{PAN}\n" * (FINDINGS_MAX + 500))
    result = searched(tmp_path)
    assert len(result.found) == FINDINGS_MAX
    assert result.found_count == FINDINGS_MAX + 500


def test_the_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    seeker = Search(MADE)
    tracemalloc.start()
    try:
        result = seeker.run([(path, 64 << 20)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.searched_bytes == 64 << 20
    assert peak < 12 << 20, f"{peak:,} bytes"


def test_a_hundred_canaries_take_hardly_longer_than_one(tmp_path: Path) -> None:
    import time  # noqa: PLC0415

    dice = random.Random(5)
    path = tmp_path / "noise"
    path.write_bytes(dice.randbytes(16 << 20))
    many = ["".join(dice.choices("0123456789", k=16)) for _ in range(100)]

    def seconds(canaries: list[str]) -> float:
        search = Search(canaries_of(canaries))
        began = time.process_time()
        search.run([(path, 16 << 20)])
        return time.process_time() - began

    one = min(seconds(many[:1]) for _ in range(2))
    hundred = min(seconds(many) for _ in range(2))
    print(f"one canary {16 / one:.0f} MiB/s, a hundred {16 / hundred:.0f} MiB/s", file=sys.stderr)
    assert hundred < 4 * one
