"""The file of master keys is read as a whole or refused with every mistake, and tells nobody a key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config.master_keys import MasterKeysWrong, read_master_keys
from gateway.terminals.session_keys import MasterKey
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.rules import MacKeys, TerminalRules
from protocol.mac_method import MacMethod
from protocol.tdes import check_value, ecb_encrypt

SIGN_ON = load_dialect("unionpay").terminal
X9_19 = replace(SIGN_ON, mac_method=MacMethod.X9_19)
FIXED = replace(SIGN_ON, mac_keys=MacKeys.FIXED, mac_method=MacMethod.X9_19)
FIXED_AES = replace(SIGN_ON, mac_keys=MacKeys.FIXED, mac_method=MacMethod.AES_CMAC)
DUKPT = replace(SIGN_ON, mac_keys=MacKeys.DUKPT, mac_method=MacMethod.X9_19)
DUKPT_AES = replace(DUKPT, mac_method=MacMethod.AES_CMAC)
TMK = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
PIN = bytes.fromhex("112233445566778899AABBCCDDEEFF00")
PIN_ENTRY = ecb_encrypt(TMK, PIN) + check_value(PIN)
KEY = TMK.hex()


def written(tmp_path: Path, *lines: str, mode: int = 0o600) -> Path:
    path = tmp_path / "master.keys"
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    path.chmod(mode)
    return path


def test_each_line_is_a_terminal_and_its_key(tmp_path: Path) -> None:
    path = written(
        tmp_path, "# ours", "", f"T0000001 {KEY[:16]}", f"  T0000002\t{KEY.upper()}  ", f"T0000003 {KEY}{KEY[:16]}",
        f"T0000004 {KEY} {PIN_ENTRY.hex()}",
    )  # fmt: skip
    assert read_master_keys(path, SIGN_ON) == {
        "T0000001": MasterKey(TMK[:8]),
        "T0000002": MasterKey(TMK),
        "T0000003": MasterKey(TMK + TMK[:8]),
        "T0000004": MasterKey(TMK, PIN_ENTRY),
    }


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        (FIXED, f"T1 {KEY}"),
        (FIXED_AES, f"T1 {KEY}"),
        (FIXED_AES, f"T1 {KEY}{KEY[:16]}"),
        (FIXED_AES, f"T1 {KEY}{KEY}"),
        (DUKPT, f"T1 {KEY}"),
        (DUKPT, f"* {KEY}"),
        (DUKPT_AES, f"* {KEY}{KEY}"),
        (replace(SIGN_ON, check_value_bytes=3), f"T1 {KEY} {PIN_ENTRY[:-1].hex()}"),
        (SIGN_ON, f"T1 {KEY} {(ecb_encrypt(TMK, PIN[:8]) + check_value(PIN[:8])).hex()}"),
    ],
)
def test_lengths_are_those_that_the_method_takes(tmp_path: Path, rules: TerminalRules, line: str) -> None:
    assert len(read_master_keys(written(tmp_path, line), rules)) == 1


@pytest.mark.parametrize(
    ("rules", "line", "words"),
    [
        (SIGN_ON, "T1", "a terminal id, a blank"),
        (SIGN_ON, KEY, "a terminal id, a blank"),
        (SIGN_ON, f"T1 {KEY[:-1]}", "pairs of hexadecimal digits"),
        (SIGN_ON, f"T1 {KEY[:-1]}x", "pairs of hexadecimal digits"),
        (SIGN_ON, f"{'T' * 41} {KEY}", "a terminal id, a blank"),
        (SIGN_ON, f"T1 {KEY} {PIN_ENTRY.hex()} 00", "a terminal id, a blank"),
        (SIGN_ON, f"{KEY} 10016919", "16 or 32 or 48 digits"),  # the wrong way round
        (SIGN_ON, f"T1 {KEY[:24]}", "16 or 32 or 48 digits"),
        (SIGN_ON, f"T1 {KEY}{KEY}", "16 or 32 or 48 digits"),
        (SIGN_ON, f"* {KEY}", "dukpt"),
        (SIGN_ON, f"T1 {'00' * 16}", "weak"),
        (SIGN_ON, f"T1 {KEY[:16]}{'fe' * 8}", "weak"),
        (SIGN_ON, f"T1 {KEY} {PIN_ENTRY[:-1].hex()}", "24 or 40 digits"),
        (SIGN_ON, f"T1 {KEY} {PIN_ENTRY[:-1].hex()}00", "check value"),
        (SIGN_ON, f"T1 {TMK[::-1].hex()} {PIN_ENTRY.hex()}", "check value"),
        (X9_19, f"T1 {KEY[:16]}", "no sign-on"),
        (X9_19, f"T1 {KEY} {(ecb_encrypt(TMK, PIN[:8]) + check_value(PIN[:8])).hex()}", "no sign-on"),
        (FIXED, f"T1 {KEY[:16]}", "32 digits"),
        (FIXED, f"T1 {KEY} {PIN_ENTRY.hex()}", "sign-on"),
        (FIXED, f"* {KEY}", "dukpt"),
        (FIXED_AES, f"T1 {KEY[:16]}", "32 or 48 or 64 digits"),
        (FIXED_AES, f"T1 {'00' * 16}", "weak"),
        (DUKPT, f"* {KEY}{KEY[:16]}", "32 digits"),
    ],
)
def test_a_line_that_is_wrong_is_told_by_its_number_and_what_would_be_right(
    tmp_path: Path, rules: TerminalRules, line: str, words: str
) -> None:
    with pytest.raises(MasterKeysWrong, match=words) as caught:
        read_master_keys(written(tmp_path, "# a comment", line), rules)
    assert str(caught.value).startswith("line 2")
    for word in line.split():
        assert word == "*" or word.lower() not in str(caught.value).lower()
    assert KEY[:12] not in str(caught.value).lower()


def test_every_mistake_is_told_at_once_but_only_so_many(tmp_path: Path) -> None:
    lines = [f"T{number} {KEY[:8]}" for number in range(12)]
    with pytest.raises(MasterKeysWrong, match="and 2 more") as caught:
        read_master_keys(written(tmp_path, *lines), SIGN_ON)
    assert len(caught.value.mistakes) == 12


def test_a_terminal_has_one_line(tmp_path: Path) -> None:
    with pytest.raises(MasterKeysWrong, match="line 2 names a terminal a second time"):
        read_master_keys(written(tmp_path, f"T1 {KEY}", f"T1 {KEY}"), SIGN_ON)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(MasterKeysWrong, match="chmod 600"):
        read_master_keys(written(tmp_path, f"T1 {KEY}", mode=mode), SIGN_ON)


def test_a_file_that_is_not_there_or_no_text_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MasterKeysWrong, match="does not exist"):
        read_master_keys(tmp_path / "none", SIGN_ON)
    with pytest.raises(MasterKeysWrong, match="cannot be read"):
        read_master_keys(written(tmp_path, f"\xe9 {KEY}"), SIGN_ON)
    with pytest.raises(MasterKeysWrong, match="holds no keys"):
        read_master_keys(written(tmp_path, "# nobody yet"), SIGN_ON)


def test_keys_are_not_shown(tmp_path: Path) -> None:
    keys = read_master_keys(written(tmp_path, f"T1 {KEY} {PIN_ENTRY.hex()}"), SIGN_ON)
    assert repr(keys) == "{'T1': MasterKey()}"


def test_a_key_of_equal_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "terminal.keys"
    path.write_text("T0000001 0123456789ABCDEF0123456789ABCDEF\n", encoding="ascii")
    path.chmod(0o600)
    with pytest.raises(MasterKeysWrong, match="line 1: the parts of the key are equal"):
        read_master_keys(path, load_dialect("unionpay").terminal)
