"""Sign-ons as the acquirer knows them: work keys drawn at random, and MACs by the keys of the day."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.unionpay import Seal
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message
from protocol.tdes import DOUBLE_BYTES, SINGLE_BYTES
from protocol.work_keys import WorkKeys, seal_work_keys

_PARAMETERS_BYTES: Final = 40


@dataclass(slots=True)
class _Session:
    """Keys in use. Those before pass until the first message under the new ones: some may still be on their way."""

    newest: Seal
    before: Seal | None


class Sessions:
    """Who has signed on, and with what.

    A gateway signs on under an id of its own and hands on the messages of many terminals: what comes from an id without
    a master key is taken as the gateway's.
    """

    def __init__(self, dialect: Dialect, master_keys: Mapping[str, bytes], gateway: str = "") -> None:
        """Nobody has signed on yet.

        Args:
            master_keys: by terminal id.
            gateway: id under which a gateway signs on; empty where terminals connect by themselves.
        """
        self._dialect = dialect
        self._master_keys = dict(master_keys)
        self._gateway = gateway
        self._open: dict[str, _Session] = {}
        self.sign_ons = 0

    def knows(self, terminal: str) -> bool:
        """Whether a terminal may sign on."""
        return terminal.strip() in self._master_keys

    def sign_on(self, terminal: str, code: str) -> bytes:
        """New work keys for a terminal: DE 62 of the answer.

        Args:
            code: DE 60.3: 001 for single-length keys, 003 for double-length ones, 004 with a track key besides.
        """
        name = terminal.strip()
        keys = _drawn(code)
        old = self._open.get(name)
        self._open[name] = _Session(Seal(self._dialect, keys.mac), old.newest if old else None)
        self.sign_ons += 1
        return seal_work_keys(self._master_keys[name], keys)

    def forget(self) -> None:
        """Lose all keys, as a host does that starts anew: every MAC is wrong until the next sign-on."""
        self._open.clear()

    def genuine(self, terminal: str, frame: bytes) -> bool:
        """Whether the MAC of a terminal's frame, without length, is right."""
        session = self._open.get(self._owner(terminal))
        if session is None:
            return False
        if session.newest.genuine(frame):
            session.before = None
            return True
        return session.before is not None and session.before.genuine(frame)

    def sealed(self, terminal: str, message: Message) -> bytes:
        """The frame of an answer, without length, MACed; without MAC where nobody has signed on."""
        session = self._open.get(self._owner(terminal))
        return self._dialect.codec.encode(message) if session is None else session.newest.sealed(message)

    def _owner(self, terminal: str) -> str:
        name = terminal.strip()
        return name if name in self._master_keys else self._gateway


def parameters() -> str:
    """DE 62 of a download of parameters, in hex: some bytes that nobody between host and terminal understands."""
    return secrets.token_hex(_PARAMETERS_BYTES)


def _drawn(code: str) -> WorkKeys:
    draw = secrets.token_bytes
    if code == "001":
        return WorkKeys(draw(SINGLE_BYTES), draw(SINGLE_BYTES))
    if code == "004":
        return WorkKeys(draw(DOUBLE_BYTES), draw(DOUBLE_BYTES), draw(DOUBLE_BYTES))
    # Half of them as UnionPay describes: a single-length MAC key, filled up.
    return WorkKeys(draw(DOUBLE_BYTES), draw(SINGLE_BYTES if secrets.randbelow(2) else DOUBLE_BYTES))
