"""One entry's proof in one text file, to be checked offline. c2sp.org/tlog-proof (a draft).

    c2sp.org/tlog-proof@v1
    extra YWdlLXYxLjIuMS1kYXJ3aW4=          may be missing; not authenticated by anything
    index 73894                             of the entry, from 0
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveX...     the inclusion proof, a hash a line, from the leaf's sibling upwards

    example.org/gateway-7                   the checkpoint as the log signed it
    109482
    sFodV/vSp5O8n9a8QpW6PRY97tfOSW5b...

    — example.org/gateway-7 hI2DJw...

The entry itself is not in the file: whoever checks computes its leaf hash from what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.transparency.checkpoints import Checkpoint, open_checkpoint
from protocol.transparency.notes import NOTE_BYTES_MAX, VerifierKey
from protocol.transparency.proofs import verify_inclusion
from protocol.transparency.text import NUMBER_MAX, decode_base64, decode_decimal, encode_base64
from protocol.transparency.tree import HASH_BYTES

TLOG_PROOF_BYTES_MAX: Final = 2 * NOTE_BYTES_MAX
PATH_LENGTH_MAX: Final = 63

_FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
_EXTRA: Final = "extra "
_INDEX: Final = "index "


class TlogProofError(ValueError):
    """A text that is no tlog-proof."""


@dataclass(frozen=True, slots=True)
class TlogProof:
    """The parts of a tlog-proof.

    Attributes:
        index: of the entry, from 0.
        path: the inclusion proof, at most 63 hashes.
        checkpoint: the signed note, as the log published it.
        extra: for the application, or None; nothing vouches for it.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index <= NUMBER_MAX:
            raise TlogProofError("an index is from 0 to 2**63 - 1")
        if len(self.path) > PATH_LENGTH_MAX or any(len(each) != HASH_BYTES for each in self.path):
            raise TlogProofError("an inclusion proof has at most 63 hashes of 32 bytes")
        if self.extra == b"":
            raise TlogProofError("extra data that is empty is left out")
        if len(self.checkpoint) > NOTE_BYTES_MAX:
            raise TlogProofError("a note has at most 1,000,000 bytes")

    def encode(self) -> bytes:
        """The file's bytes; its name ends in `.tlog-proof`."""
        lines = [_FIRST_LINE]
        if self.extra is not None:
            lines.append(_EXTRA + encode_base64(self.extra))
        lines.append(f"{_INDEX}{self.index}")
        lines += map(encode_base64, self.path)
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint

    @classmethod
    def parse(cls, encoded: bytes) -> TlogProof:
        """The proof that a file holds. Nothing is verified.

        Raises:
            TlogProofError: not of the form, by the section "Format".
        """
        if len(encoded) > TLOG_PROOF_BYTES_MAX:
            raise TlogProofError("longer than a tlog-proof may be")
        head, empty_line, checkpoint = encoded.partition(b"\n\n")
        first, *lines = head.decode("ascii", "replace").split("\n")
        if first != _FIRST_LINE or not empty_line:
            raise TlogProofError("a tlog-proof begins with its name, and its checkpoint follows an empty line")
        extra = lines.pop(0).removeprefix(_EXTRA) if lines and lines[0].startswith(_EXTRA) else None
        if not lines or not lines[0].startswith(_INDEX):
            raise TlogProofError("a tlog-proof tells the index of its entry")
        try:
            return cls(
                index=decode_decimal(lines[0].removeprefix(_INDEX)),
                path=tuple(map(decode_base64, lines[1:])),
                checkpoint=checkpoint,
                extra=None if extra is None else decode_base64(extra),
            )
        except TlogProofError:
            raise
        except ValueError:
            raise TlogProofError("a tlog-proof's numbers are decimal and its octets base64") from None

    def verify(self, leaf: bytes, origin: str, keys: Sequence[VerifierKey]) -> Checkpoint:
        """The checkpoint under which the entry with the leaf hash `leaf` stands at this proof's index.

        Section "Verifying a tlog proof", steps 2 and 4; step 1 is the caller's, and step 3, which witnesses are enough,
        too.

        Raises:
            NoteError: the checkpoint is not one of the log `origin`, signed by a key of that name among `keys`.
            ProofError: the entry is not shown to be in the log.
        """
        checkpoint = open_checkpoint(self.checkpoint, origin, keys)
        verify_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)
        return checkpoint
