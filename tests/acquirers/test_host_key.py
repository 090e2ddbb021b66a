"""The file with the key that is shared with a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.host_key import HostKeyWrong, read_host_key

KEY = "0123456789abcdefFEDCBA9876543210"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("size", [8, 16, 24, 32])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_of_hexadecimal_digits_is_the_key(tmp_path: Path, size: int, end: str) -> None:
    assert read_host_key(write(tmp_path / "key", "a5" * size + end)) == b"\xa5" * size


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a key"),
        (KEY + "\n" + KEY, "is not a key"),
        (KEY[:16] + " " + KEY[16:], "is not a key"),
        ("0x" + KEY, "is not a key"),
        (KEY[:-1] + "G", "is not a key"),
        (KEY[:-2], "has 30 hexadecimal digits"),
        (KEY + "a", "has 33 hexadecimal digits"),
        (KEY + " " * 300, "is not a key"),
        ("\u00e9" + KEY, "cannot be read"),
    ],
)
def test_anything_else_is_refused_and_not_shown(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(HostKeyWrong, match=why) as refusal:
        read_host_key(write(tmp_path / "key", text))
    assert refusal.value.__cause__ is None
    assert KEY[:16].lower() not in str(refusal.value).lower()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(HostKeyWrong, match="chmod 600"):
        read_host_key(write(tmp_path / "key", KEY, mode))


def test_no_file_or_a_directory_is_refused(tmp_path: Path) -> None:
    for path, told in ((tmp_path / "absent", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(HostKeyWrong, match=told):
            read_host_key(path)
