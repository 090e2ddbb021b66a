"""A till's receipt: the tlog-proof of the entry that holds what the till was told, under the newest signed checkpoint.

The proof brings the entry in its extra line, so that the till, or whoever it trusts, needs nothing but the log's key to
check it, and holds a signed head of the log from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.journal.rows import RowCodec, RowDamaged
from gateway.notary.live_log import LiveLog, LogDamaged
from gateway.notary.note_file import NoteFiles
from protocol.transparency.checkpoints import open_checkpoint
from protocol.transparency.notes import NoteError, SignerKey, parse_note
from protocol.transparency.proofs import ProofError, prove_inclusion
from protocol.transparency.tlog_proof import TlogProof
from protocol.transparency.tree import leaf_hash


class NotSignedYet(Exception):
    """No checkpoint covers the transaction's entry yet."""


class ReceiptBroken(Exception):
    """The journal does not lead to what was signed, so that nothing can be proved; the message says where."""


class Receipts:
    """Makes receipts, one at a time, each on a thread: payments never wait for one."""

    def __init__(self, journal: Path, row_key: bytes, seeds: Callable[[], Sequence[bytes]]) -> None:
        """`seeds` are all keys that ever signed for this journal."""
        self._journal = journal
        self._codec = RowCodec(row_key)
        self._seeds = seeds
        self._one = asyncio.Semaphore(1)

    async def of(self, transaction: int) -> bytes | None:
        """The receipt of a transaction as it stands; None where there is none of this id.

        Raises:
            NotSignedYet: ask again after the next checkpoint.
            ReceiptBroken: the journal is damaged, or was put back.
            LogUnreadable: the journal cannot be read for now.
        Cancellation: the thread ends on its own.
        """
        async with self._one:
            return await asyncio.to_thread(self._made, transaction, tuple(self._seeds()))

    def _made(self, transaction: int, seeds: Sequence[bytes]) -> bytes | None:
        note = NoteFiles(self._journal).read_newest()
        if note is None:
            raise NotSignedYet
        log = _RowsToo(self._journal)
        try:
            packed = log.row(transaction)
            if packed is None:
                return None
            index = max(self._codec.unpack(transaction, packed).answered_at, transaction) - 1
            origin = parse_note(note).text.partition("\n")[0]
            keys = [SignerKey(origin, seed).verifier for seed in seeds]
            checkpoint = open_checkpoint(note, origin, keys)
            if index >= checkpoint.size:
                raise NotSignedYet
            (body,) = log.bodies(index, index + 1)
            path = prove_inclusion(index, checkpoint.size, log.hashes(checkpoint.size))
            proof = TlogProof(index, tuple(path), note, body)
            proof.verify(leaf_hash(body), origin, keys)
            return proof.encode()
        except (RowDamaged, LogDamaged, NoteError, ProofError) as error:
            raise ReceiptBroken(f"transaction {transaction}: {error}") from error
        finally:
            log.close()


class _RowsToo(LiveLog):
    """The log, and the rows beside it."""

    def row(self, transaction: int) -> bytes | None:
        """The packed row of a transaction; None where there is none."""
        sql = "SELECT id, row FROM tx WHERE id = ?"
        return next(self._dense(sql, (transaction,), transaction, transaction, "row"), None)
