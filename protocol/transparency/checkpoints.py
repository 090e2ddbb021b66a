"""Checkpoints: a signed note that says how large a log is and what its root is. c2sp.org/tlog-checkpoint v1.0.0.

    example.org/gateway-7                               origin: which log
    20852163                                            size, decimal
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=        root, base64

    — example.org/gateway-7 Az3grlgtzPICa5OS8npVmf1M...

Lines after the third are extensions: opaque, not empty, and not recommended. They are kept, and none is written here.

A log must never sign two checkpoints of which neither continues the other. Who signs has to see to that; whoever holds
two such checkpoints holds the proof of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.transparency.notes import NoteError, NotSigned, SignerKey, VerifierKey, parse_note, sign_note, verify_note
from protocol.transparency.text import NUMBER_MAX, decode_base64, decode_decimal, encode_base64
from protocol.transparency.tree import EMPTY_ROOT, HASH_BYTES


class CheckpointError(NoteError):
    """A note that is no checkpoint, or one of another log."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of one log.

    Attributes:
        origin: names the log; the name of the key that signs is the same.
        size: number of entries, 0 to 2**63 - 1.
        root: of the tree of that size, 32 bytes; of an empty one SHA-256 of nothing.
        extensions: the lines after the third, without their newlines.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(not line or "\n" in line for line in (self.origin, *self.extensions)):
            raise CheckpointError("a checkpoint's origin and extensions are lines that are not empty")
        if not 0 <= self.size <= NUMBER_MAX:
            raise CheckpointError("a tree has from 0 to 2**63 - 1 leaves")
        if len(self.root) != HASH_BYTES:
            raise CheckpointError("a root has 32 bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise CheckpointError("an empty tree has the root SHA-256 of nothing")

    @property
    def text(self) -> str:
        """The note's text, to be signed."""
        return "\n".join((self.origin, str(self.size), encode_base64(self.root), *self.extensions, ""))

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint that a note's text is. Nothing is verified.

        Raises:
            CheckpointError: it is none, by the section "Note text".
        """
        *lines, end = text.split("\n")
        if end or len(lines) < 3:
            raise CheckpointError("a checkpoint has at least three lines, each with its newline")
        origin, size, root, *extensions = lines
        try:
            return cls(origin, decode_decimal(size), decode_base64(root), tuple(extensions))
        except CheckpointError:
            raise
        except ValueError:
            raise CheckpointError("a checkpoint's size is decimal and its root base64") from None


def sign_checkpoint(checkpoint: Checkpoint, signers: Sequence[SignerKey]) -> bytes:
    """The note that makes `checkpoint` public; while a key rotates, with the old and the new one.

    Raises:
        CheckpointError: the name of a signer is not the origin.
        NoteError: as of `sign_note`.
    """
    if any(signer.name != checkpoint.origin for signer in signers):
        raise CheckpointError("the key that signs for a log has the log's origin for its name")
    return sign_note(checkpoint.text, signers)


def open_checkpoint(encoded: bytes, origin: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """The checkpoint of the log `origin` that the note holds, once a key of that name among `keys` has signed it.

    Other keys among `keys`, say of witnesses, are verified where they have signed, but the log itself must have signed.

    Raises:
        SignatureRefused: a known key's signature does not verify.
        NotSigned: no known key of this log has signed.
        CheckpointError: not a checkpoint, or of another log.
        NoteError: not a signed note.
    """
    note = parse_note(encoded)
    if all(key.name != origin for key in verify_note(note, keys)):
        raise NotSigned("no known key of this log has signed this note")
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != origin:
        raise CheckpointError("this is the checkpoint of another log")
    return checkpoint
