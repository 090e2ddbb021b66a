"""The terminals' master keys: a file of its own, so that no configuration holds one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.private_file import PrivateFileWrong, read_private
from protocol.iso8583.rules import TerminalRules

if TYPE_CHECKING:
    from gateway.terminals.session_keys import MasterKey

_LINE: Final = re.compile(r"(\S{1,40})\s+((?:[0-9a-fA-F]{2})+)(?:\s+((?:[0-9a-fA-F]{2})+))?")
_MISTAKES_SHOWN_MAX: Final = 10


class MasterKeysWrong(Exception):
    """The file cannot be used; `mistakes` says why and what would be right. Holds no key, and no word of a line: a
    line in the wrong order has its key where the terminal should be."""

    def __init__(self, *mistakes: str) -> None:
        shown = list(mistakes[:_MISTAKES_SHOWN_MAX])
        if len(mistakes) > len(shown):
            shown.append(f"and {len(mistakes) - len(shown)} more")
        super().__init__("; ".join(shown))
        self.mistakes = mistakes


def read_master_keys(path: Path, rules: TerminalRules) -> dict[str, MasterKey]:
    """The keys of each terminal, from lines `TERMINAL KEY` or `TERMINAL KEY PINKEY`, in hexadecimal digits.

    By the dialect's `mac_keys`, KEY is the terminal master key ("sign-on"), the MAC key itself ("fixed"), or a base
    derivation key ("dukpt"; a line `* KEY` serves all terminals that have no line). PINKEY, with "sign-on" only, is
    the terminal's PIN key as the acquirer gave it, encrypted under KEY, followed by its check value.

    Args:
        rules: the dialect's habits.
    Raises:
        MasterKeysWrong: no file, open to others than its owner, or lines that are wrong: all of them at once.
    """
    from gateway.terminals.session_keys import MasterKey, key_mistake  # noqa: PLC0415 - cryptography is slow to import

    try:
        lines = read_private(path, "a file of terminals and their keys").splitlines()
    except PrivateFileWrong as unreadable:
        raise MasterKeysWrong(str(unreadable)) from None
    keys: dict[str, MasterKey] = {}
    mistakes = []
    named = set()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            mistakes.append(f"line {number} is wrong; a terminal id, a blank, a key in pairs of hexadecimal digits")
            continue
        terminal, key = match[1], MasterKey(bytes.fromhex(match[2]), bytes.fromhex(match[3] or ""))
        if terminal in named:
            mistakes.append(f"line {number} names a terminal a second time; one line each")
        elif (wrong := key_mistake(rules, terminal, key)) is not None:
            mistakes.append(f"line {number}: {wrong}")
        named.add(terminal)
        keys[terminal] = key
    if not named and not mistakes:
        mistakes.append("holds no keys; a line for each terminal")
    if mistakes:
        raise MasterKeysWrong(*mistakes)
    return keys
