"""Decides whether the log's head may be signed, and signs it.

A log must never sign two heads of which neither continues the other: whoever holds both holds the proof that it lies.
So each time, before a signature is made,

1. the tree of the size that was signed last must still have, out of what the journal stores, the root that was signed;
2. each entry since then must hash to its leaf, and those leaves must make the root that the journal has committed to.

Where one of these does not hold, the journal was put back, cut, edited or damaged. Nothing is signed then until a
person has decided to go on, and that decision is an entry of the log itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.notary.live_log import LiveLog, LogDamaged, LogUnreadable
from gateway.notary.note_file import NoteFiles, replace_file
from protocol.transparency.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint
from protocol.transparency.notes import Note, NoteError, Signature, SignerKey, parse_note
from protocol.transparency.text import encode_base64
from protocol.transparency.tree import Frontier, leaf_hash

_PORTION: Final = 64
"""Entries that are checked in one go, which takes some tenths of a millisecond: payments wait for the interpreter."""
_REST: Final = 4
"""So many times as long payments go on undisturbed then. A thousand entries checked in one go, once a second, made
every twentieth sale wait twice as long."""
_BEHIND: Final = 50_000
"""Where more than so many are not signed yet, only as long as each portion takes, and a stop does not wait for them."""
_REST_MAX_S: Final = 0.05
"""A portion that a stalled disk or a paused machine made long asks for no long rest."""


class LogBroken(Exception):
    """The journal does not continue what was signed. The message says how; nothing is signed until a person decides."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed head.

    Attributes:
        note: the checkpoint with its signatures, of this log first, then of witnesses.
        signed_ms: UTC; when this process signed it, or read it at its start.
    """

    checkpoint: Checkpoint
    note: bytes
    signed_ms: int

    @property
    def size(self) -> int:
        """Entries that it covers."""
        return self.checkpoint.size

    @property
    def root(self) -> str:
        """Its root, base64 as in the note."""
        return encode_base64(self.checkpoint.root)


class Signing:
    """To be used on one thread only, from `open` to `close`."""

    def __init__(
        self,
        journal: Path,
        origin: str,
        signers: Callable[[], Sequence[SignerKey]],
        seeds: Callable[[], Sequence[bytes]],
        utc_ms: Callable[[], int],
        *,
        rest: Callable[[float], object] | None = None,
    ) -> None:
        """`signers` sign now (two while a key rotates); `seeds` are all that ever signed for this journal.

        `rest` waits so many seconds, if it is not to be the usual way.
        """
        self._journal = journal
        self._origin = origin
        self._signers = signers
        self._seeds = seeds
        self._utc_ms = utc_ms
        self._ending = threading.Event()
        self._rest = rest if rest is not None else self._ending.wait
        self._files = NoteFiles(journal)
        self._frontier = Frontier()
        """Of the entries that were checked: those that are signed, and more where signing has failed since."""
        self._log: LiveLog | None = None
        self.newest: Signed | None = None
        """What was signed last; None before the first."""

    def open(self, size: int, root: bytes) -> Signed | None:
        """Read what was signed last, and hold the journal, whose head is (size, root), against it.

        Safe to call again after an exception.

        Raises:
            LogBroken: the journal does not continue it, or it cannot be read.
            LogUnreadable, OSError: for now.
        """
        if self._log is None:
            self._log = LiveLog(self._journal)
        kept = self._files.read_newest()
        if kept is None:
            self.newest = None
            self._frontier = Frontier()
            return None
        self.newest = Signed(self._kept_checkpoint(kept), kept, self._utc_ms())
        self._refuse_what_went_back(size, root)
        self._frontier = self._stored_frontier(self.newest.size)
        return self.newest

    def _kept_checkpoint(self, kept: bytes) -> Checkpoint:
        """The checkpoint in our own file. Its origin may be another: the log's name can change, its history cannot."""
        wrong = f"{self._files.newest} is not a checkpoint that this gateway has signed"
        try:
            origin = parse_note(kept).text.partition("\n")[0]
            keys = [SignerKey(origin, seed).verifier for seed in self._seeds()]
            return open_checkpoint(kept, origin, keys)
        except NoteError as error:
            raise LogBroken(f"{wrong}: {error}") from error

    def sign(self, size: int, root: bytes) -> Signed | None:
        """Sign the head (size, root), durably; None where it is the one that was signed last.

        Raises:
            LogBroken: it does not continue that one, or entries are not those that the journal has committed to.
            LogUnreadable, OSError, NoteError: not signed for now.
        """
        self._refuse_what_went_back(size, root)
        if self.newest is not None and self.newest.size == size and self.newest.checkpoint.origin == self._origin:
            return None
        frontier = self._with_new_entries(size)
        if frontier.root() != root:
            raise LogBroken(f"the entries up to {size} do not make the tree that the journal has committed to")
        return self._signed(frontier)

    def accept(self, size: int, root: bytes) -> Signed:
        """Sign the head (size, root) whatever was signed before, and take the journal's stored leaves as they are.

        Raises:
            LogBroken: what the journal stores is not the tree that it goes on from; a restart reads that anew.
            LogUnreadable, OSError, NoteError: not signed.
        """
        self.refuse_other_tree(size, root)
        return self._signed(self._stored_frontier(size))

    def refuse_other_tree(self, size: int, root: bytes) -> None:
        """Make sure that the head (size, root), which new entries continue, is the one of what the journal stores.

        Raises:
            LogBroken: it is not.
            LogUnreadable: for now.
        """
        if self._stored_frontier(size).root() != root:
            raise LogBroken(
                "the tree in the gateway's memory is not the one that the journal's file has: restart the gateway, "
                "then continue"
            )

    def empty(self) -> Signed:
        """The signed head of no entries, which every log continues: what a witness can be asked with for its size."""
        checkpoint = Checkpoint(self._origin, 0, Frontier().root())
        return Signed(checkpoint, sign_checkpoint(checkpoint, self._signers()), self._utc_ms())

    def cosigned(self, signed: Signed, lines: Sequence[Signature]) -> Signed:
        """Keep what witnesses have said about a head that was signed here; returns it with all cosignatures so far.

        Raises:
            OSError: not kept.
        """
        newest = self.newest
        is_newest = newest is not None and newest.checkpoint == signed.checkpoint
        base = parse_note((newest if newest is not None and is_newest else signed).note)
        names = {(line.name, line.key_id) for line in lines}
        others = tuple(each for each in base.signatures if (each.name, each.key_id) not in names)
        note = Note(base.text, (*others, *lines)).encode()
        kept = Signed(signed.checkpoint, note, signed.signed_ms)
        if is_newest:
            replace_file(self._files.newest, note)
            self.newest = kept
        else:
            replace_file(self._files.witnessed, note)
        return kept

    def hasten(self) -> None:
        """The gateway stops: rest no more, and sign only what takes no long check. Called on any thread."""
        self._ending.set()

    def close(self) -> None:
        """Let go of the journal."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _signed(self, frontier: Frontier) -> Signed:
        checkpoint = Checkpoint(self._origin, frontier.size, frontier.root())
        signed = Signed(checkpoint, sign_checkpoint(checkpoint, self._signers()), self._utc_ms())
        replace_file(self._files.newest, signed.note)  # before anybody else sees it
        self.newest, self._frontier = signed, frontier
        return signed

    def _refuse_what_went_back(self, size: int, root: bytes) -> None:
        if self.newest is None:
            return
        signed = self.newest.checkpoint
        if signed.size > size:
            raise LogBroken(
                f"the journal ends at entry {size}, and a head of {signed.size} entries was signed: it was cut, or "
                f"put back from a backup"
            )
        stored = self._stored_frontier(signed.size).root()
        if stored != signed.root or (signed.size == size and root != signed.root):
            raise LogBroken(
                f"the first {signed.size} entries are not those whose head was signed: they were edited, or put back "
                f"from a backup"
            )

    def _stored_frontier(self, size: int) -> Frontier:
        assert self._log is not None, "not open"
        try:
            return self._log.frontier(size)
        except LogDamaged as error:
            raise LogBroken(f"the tree cannot be made of what the journal stores: {error}") from error

    def _with_new_entries(self, size: int) -> Frontier:
        """The frontier with the entries that have come since, out of their bodies. Payments go first."""
        while self._frontier.size < size:
            start, end = self._frontier.size, min(self._frontier.size + _PORTION, size)
            behind = size - start > _BEHIND
            if behind and self._ending.is_set():
                raise LogUnreadable(f"the gateway stops, and {size - start} entries are not checked yet")
            began_s = time.monotonic()
            # Kept even if nothing comes to be signed: what was checked once is not checked again.
            self._frontier, _ = self._frontier.append(self._checked_leaves(start, end))
            if end < size:
                took_s = time.monotonic() - began_s
                self._rest(min((1 if behind else _REST) * took_s, _REST_MAX_S))
        return self._frontier

    def _checked_leaves(self, start: int, end: int) -> list[bytes]:
        assert self._log is not None, "not open"
        if (whole := self._log.made_leaves(start, end)) is not None:
            return whole
        try:
            leaves = [leaf_hash(body) for body in self._log.bodies(start, end)]
            stored = self._log.leaves(start, end)
        except LogDamaged as error:
            raise LogBroken(f"{error}: it is not the one that was committed") from error
        for sequence, (made, there) in enumerate(zip(leaves, stored, strict=True), start + 1):
            if made != there:
                raise LogBroken(f"entry {sequence} does not hash to its leaf: it is not the one that was committed")
        return leaves
