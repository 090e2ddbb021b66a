"""Heads that a journal is held against: the auditor's checkpoint, the one beside the journal, the one inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.audit.damage import Damage, Findings
from gateway.audit.tree_checks import Head
from gateway.core.lifecycle import State
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.port import JournalError
from gateway.journal.rows import RowCodec
from gateway.journal.schema import Head as JournalHead
from gateway.regular_file import read_regular
from protocol.transparency.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from protocol.transparency.notes import NOTE_BYTES_MAX, NoteError, VerifierKey, parse_note
from protocol.transparency.tree import Frontier, TreeError

HELD: Final = "the checkpoint that you hold"
BESIDE: Final = "the checkpoint beside the journal"
INSIDE: Final = "the head inside the journal"

_COUNTS: Final = len(State) + 1


class HeadRefused(JournalError):
    """A checkpoint or verifier key that the auditor named is not one, or does not verify."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint as read.

    Attributes:
        name: whose it is, in words.
        verified: its signature was verified with the verifier key that the auditor holds.
    """

    name: str
    checkpoint: Checkpoint
    verified: bool


def checkpoint_path(journal: Path) -> Path:
    """Where the gateway keeps its newest checkpoint."""
    return journal.with_name(journal.name + "-checkpoint")


def read_keys(texts: Sequence[str]) -> tuple[VerifierKey, ...]:
    """Verifier keys of one log, the older ones too where its key was rotated (`read_key`).

    Raises:
        HeadRefused: one of them is none, or they are of several logs.
    """
    keys = tuple(read_key(text) for text in texts)
    if len({key.name for key in keys}) > 1:
        raise HeadRefused("the verifier keys are of several logs: " + ", ".join(sorted({key.name for key in keys})))
    return keys


def read_key(text: str) -> VerifierKey:
    """A verifier key, as `NAME+ID+BASE64` or the name of a file that holds it.

    Raises:
        HeadRefused: neither.
    """
    try:
        return VerifierKey.parse(text.strip())
    except NoteError as error:
        path = Path(text)
        try:
            return VerifierKey.parse(path.read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            raise HeadRefused(f"--verifier-key is neither a verifier key ({error}) nor a file that holds one") from None


def read_checkpoint(path: Path, name: str, keys: Sequence[VerifierKey]) -> Signed:
    """A checkpoint of a file, verified where there are keys of its log.

    Raises:
        HeadRefused: no such file, not a checkpoint, of another log than the key's, or not signed by it.
    """
    try:
        encoded = read_regular(path, NOTE_BYTES_MAX + 1)
    except OSError as error:
        raise HeadRefused(f"{path} cannot be read: {error.strerror}") from None
    try:
        if keys:
            return Signed(name, open_checkpoint(encoded, keys[0].name, keys), verified=True)
        return Signed(name, Checkpoint.parse(parse_note(encoded).text), verified=False)
    except CheckpointError as error:
        raise HeadRefused(f"{path} is not a checkpoint of this log: {error}") from None
    except NoteError as error:
        raise HeadRefused(f"{path}: {error}") from None


def beside(journal: Path, keys: Sequence[VerifierKey], findings: Findings) -> Signed | None:
    """The checkpoint that the gateway keeps beside its journal; None where there is none, or it is refused.

    Read it before the journal is opened: what is signed later may know of more than the reader sees.
    """
    path = checkpoint_path(journal)
    if not path.exists():
        return None
    try:
        return read_checkpoint(path, BESIDE, keys)
    except HeadRefused as refused:
        findings.add(Damage.CHECKPOINT, f"{BESIDE}: {refused}")
        return None


def inside(reader: LogReader, findings: Findings, codec: RowCodec | None) -> JournalHead | None:
    """The journal's own head, of whichever copy can be read; its tag is verified where there is a key.

    A gateway writes two copies of it in every commit: one that is not there was taken away.
    """
    heads: list[JournalHead] = []
    try:
        for packed, tag in reader.select("SELECT packed, tag FROM head WHERE copy IN (1, 2)"):
            try:
                head = msgspec.msgpack.decode(packed, type=JournalHead)
                whole = Frontier.decode(head.frontier).size == head.sequence and len(head.counts) == _COUNTS
            except (msgspec.MsgspecError, TreeError, TypeError, UnicodeDecodeError):
                continue
            if whole and (codec is None or codec.head_tag(packed) == tag):
                heads.append(head)
    except LogDamaged:
        findings.add(Damage.UNREADABLE, f"{INSIDE} cannot be read")
    if not heads:
        findings.add(Damage.HEAD_MISSING, f"{INSIDE} is not there, or neither copy is whole: a cut tail would not show")
    elif len(heads) == 1:
        findings.add(Damage.HEAD_MISSING, f"one of two copies of {INSIDE} is not there, or is not whole")
    elif heads[0] != heads[1]:
        findings.add(Damage.HEAD_MISSING, f"the two copies of {INSIDE} say different things")
    return max(heads, key=lambda each: (each.sequence, each.commits), default=None)


def witness(head: JournalHead) -> Head:
    """The journal's own head, as one that its tree is held against."""
    return Head(INSIDE, head.sequence, Frontier.decode(head.frontier).root())
