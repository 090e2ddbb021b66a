"""Has checkpoints cosigned by an HTTP witness: c2sp.org/tlog-witness, `add-checkpoint`.

    POST PREFIX/add-checkpoint
    old 20852014                                        what the witness has of this log, as far as we know
    <base64>                                            proof that the checkpoint continues that, a hash a line

    <the signed checkpoint>

    200   cosignature lines
    409   it has another size: that one. If it is more than the journal has, the journal was put back from a backup
    422   the proof does not fit what it has: the journal has another history than it has seen, a fork

A witness is the one place from where this machine can learn that its own journal has lost its end.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from gateway.notary.live_log import LiveLog, LogDamaged, LogUnreadable
from gateway.notary.outlet import OutletFailed
from gateway.notary.signing import Signed
from protocol.transparency.cosignatures import WitnessKey, verify_cosignatures
from protocol.transparency.notes import Note, NoteError, Signature, parse_note
from protocol.transparency.proofs import ProofError
from protocol.transparency.text import decode_decimal, encode_base64

_WITHIN_S: Final = 5.0
_ANSWER_BYTES_MAX: Final = 65_536
_PROOF_LINES_MAX: Final = 63
_TRIES: Final = 3
_CLOCK_AHEAD_S: Final = 300


class Conflict(Enum):
    """What a witness says about our history."""

    ROLLED_BACK = "rolled-back"  # it has seen more than the journal has
    FORKED = "forked"  # it has seen something else


@dataclass(frozen=True, slots=True)
class WitnessConflict:
    """A witness's refusal that only a person can settle.

    Attributes:
        witness: its name.
        held: entries that it has; for a fork, as far as we know.
    """

    witness: str
    conflict: Conflict
    held: int

    def __str__(self) -> str:
        """For a person."""
        if self.conflict is Conflict.ROLLED_BACK:
            return (
                f"witness {self.witness} has seen {self.held} entries, the journal has fewer: it was cut, or put back "
                f"from a backup"
            )
        return f"witness {self.witness} has seen another history of this log than the journal has: a fork"


@dataclass(frozen=True, slots=True)
class WitnessEnd:
    """How a witness is reached.

    Attributes:
        url: prefix, without a last slash.
        tls: for https.
        proxy: host and port of a proxy that takes CONNECT; None for none.
    """

    key: WitnessKey
    url: str
    tls: ssl.SSLContext | None
    proxy: tuple[str, int] | None = None


def request_body(old: int, proof: list[bytes], note: bytes) -> bytes:
    """The body of `add-checkpoint`."""
    lines = [f"old {old}", *(encode_base64(each) for each in proof)]
    return "".join(f"{line}\n" for line in lines).encode() + b"\n" + note


class WitnessDestination:
    """One witness, over one connection that is kept open."""

    def __init__(
        self,
        end: WitnessEnd,
        open_log: Callable[[], LiveLog],
        cosigned: Callable[[Signed, tuple[Signature, ...]], None],
        conflict: Callable[[WitnessConflict], None],
    ) -> None:
        """`cosigned` and `conflict` are called on the outlet's thread."""
        self.name = end.key.name
        self._end = end
        self._log = open_log()
        self._cosigned = cosigned
        self._conflict = conflict
        self._connection: http.client.HTTPConnection | None = None
        self._held = 0
        self._unsettled: WitnessConflict | None = None
        """What it has refused last, until it cosigns again."""
        parts = urlsplit(end.url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = f"{parts.path}/add-checkpoint"

    def publish(self, signed: Signed) -> None:
        """Have it cosigned. Raises OutletFailed."""
        for _ in range(_TRIES):
            if self._held > signed.size:
                self._settle_ahead()
                return
            status, answer = self._asked(self._body(signed))
            if status == http.HTTPStatus.OK:
                self._take(signed, answer)
                return
            if status == http.HTTPStatus.CONFLICT:
                held = self._size_of(answer)
                if held == self._held:  # the same size, another root (tlog-witness 1.0)
                    raise self._refused(Conflict.FORKED)
                self._held = held
            elif status == http.HTTPStatus.UNPROCESSABLE_ENTITY:
                raise self._refused(Conflict.FORKED)
            else:
                raise OutletFailed(f"{self._end.url} answered {status}{_why(status)}")
        raise OutletFailed(f"{self._end.url} has another size each time: does another gateway sign this log?")

    def close(self) -> None:
        """Hang up, and let go of the journal."""
        self._hang_up()
        self._log.close()

    def _body(self, signed: Signed) -> bytes:
        try:
            proof = self._log.consistency(self._held, signed.size)
        except (LogDamaged, LogUnreadable, ProofError) as error:
            raise OutletFailed(f"the proof for {self.name} cannot be made: {error}") from error
        assert len(proof) <= _PROOF_LINES_MAX
        return request_body(self._held, proof, signed.note)

    def _settle_ahead(self) -> None:
        """The witness has more than this checkpoint: an older one than it knows, or the journal has lost its end."""
        try:
            size = self._log.size()
        except LogUnreadable as error:
            raise OutletFailed(str(error)) from error
        if self._held > size:
            raise self._refused(Conflict.ROLLED_BACK)
        if self._unsettled is not None:  # a journal that has grown since has not become the one that it has seen
            raise self._refused(self._unsettled.conflict)
        # Only our own file of the newest checkpoint is old; the next one that is signed covers what the witness has.

    def _refused(self, conflict: Conflict) -> OutletFailed:
        told = WitnessConflict(self.name, conflict, self._held)
        self._unsettled = told
        self._held = 0  # ask anew: its operator may have settled it
        self._conflict(told)
        return OutletFailed(str(told))

    def _take(self, signed: Signed, answer: bytes) -> None:
        """Keep the cosignatures of its key; a witness that shows none that holds has not cosigned."""
        text = parse_note(signed.note).text
        try:
            lines = parse_note(text.encode() + b"\n" + answer).signatures
            key = self._end.key
            own = tuple(each for each in lines if (each.name, each.key_id) == (key.name, key.key_id))
            verified = verify_cosignatures(Note(text, own), [key]) if own else ()
        except NoteError as error:
            raise OutletFailed(f"{self._end.url} answered no cosignature: {error}") from error
        if not verified:
            raise OutletFailed(f"{self._end.url} has signed with another key than {key.text}")
        if any(each.time_s > time.time() + _CLOCK_AHEAD_S for each in verified):
            raise OutletFailed(f"{self._end.url} has signed for a time that is to come: its clock or ours is wrong")
        self._held, self._unsettled = signed.size, None
        self._cosigned(signed, own[-1:])

    def _size_of(self, answer: bytes) -> int:
        try:
            return decode_decimal(answer.decode("ascii").removesuffix("\n"))
        except ValueError:
            raise OutletFailed(f"{self._end.url} answered 409 without the size that it has") from None

    def _asked(self, body: bytes) -> tuple[int, bytes]:
        """Status and content of the answer; over a new connection where a kept one has ended meanwhile."""
        kept = self._connection is not None
        try:
            return self._ask(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._hang_up()
            if not kept or isinstance(error, TimeoutError):
                raise OutletFailed(f"{self._end.url}: {_plain(error)}") from error
        try:
            return self._ask(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._hang_up()
            raise OutletFailed(f"{self._end.url}: {_plain(error)}") from error

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._dialled()
        headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "holdfast"}
        self._connection.request("POST", self._path, body, headers)
        answer = self._connection.getresponse()
        until_s = time.monotonic() + _WITHIN_S
        content = b""
        while piece := answer.read1(_ANSWER_BYTES_MAX):
            content += piece
            if len(content) > _ANSWER_BYTES_MAX:
                raise ValueError("the answer is far too long")
            if time.monotonic() > until_s:
                raise TimeoutError("the answer does not end")
        answer.read()  # there is no more, but only this lets the connection go on to the next request
        if answer.will_close:
            self._hang_up()
        return answer.status, content

    def _dialled(self) -> http.client.HTTPConnection:
        host, port = self._end.proxy or (self._host, self._port)
        if self._end.tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_WITHIN_S, context=self._end.tls
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_WITHIN_S)
        if self._end.proxy is not None:
            connection.set_tunnel(self._host, self._port)
        return connection

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _why(status: int) -> str:
    known = {
        http.HTTPStatus.NOT_FOUND: "; it does not know this log: its operator has to add the origin and the key",
        http.HTTPStatus.FORBIDDEN: "; it knows this log by another key: its operator has to add the present one",
    }
    return known.get(http.HTTPStatus(status), "") if status in list(http.HTTPStatus) else ""


def _plain(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
