"""The newest signed checkpoint of a journal, and the keys that it is believed by.

While a gateway runs it keeps the newest checkpoint that it has signed in `<journal>-checkpoint`. That file is public,
as is the verifier key. Neither says anything that an auditor should take on trust: the key has to have come to them on
another way than the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.audit.heads import checkpoint_path
from gateway.journal.log_reader import LogReader
from gateway.regular_file import read_regular
from protocol.transparency.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint
from protocol.transparency.notes import NOTE_BYTES_MAX, NoteError, SignerKey, VerifierKey

_KEY_FILE_BYTES_MAX: Final = 65_536


class HeadError(Exception):
    """There is no checkpoint that can be believed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint whose signature has been verified.

    Attributes:
        note: the signed note, byte for byte.
        checkpoint: what it says.
        keys: verifier keys of the log that signed it; at least one.
    """

    note: bytes
    checkpoint: Checkpoint
    keys: tuple[VerifierKey, ...]


def verified_head(note: bytes, keys: Sequence[VerifierKey]) -> SignedHead:
    """The head that `note` is, once it is believed.

    All `keys` have one name, which is the log's origin.

    Raises:
        HeadError: it is no checkpoint of that log, or none of `keys` has signed it.
    """
    names = {key.name for key in keys}
    if len(names) != 1:
        raise HeadError("verifier keys of one log have one name; name the key of this log alone")
    try:
        checkpoint = open_checkpoint(note, names.pop(), keys)
        signed = tuple(key for key in keys if _signed(note, key))
    except NoteError as error:
        raise HeadError(f"the checkpoint is refused: {error}") from None
    return SignedHead(note, checkpoint, signed)


def _signed(note: bytes, key: VerifierKey) -> bool:
    try:
        open_checkpoint(note, key.name, [key])
    except NoteError:
        return False
    return True


def newest_head(journal: Path, keys: Sequence[VerifierKey]) -> SignedHead:
    """The newest signed head that lies beside a journal.

    Raises:
        HeadError: there is none, or it is not believed.
    """
    path = checkpoint_path(journal)
    try:
        note = read_regular(path, NOTE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise HeadError(
            f"{path} does not exist: no checkpoint of this journal has been signed yet; "
            "run the gateway (holdfast audit checkpoint has one signed at once), or sign one with --sign -c FILE"
        ) from None
    except OSError as error:
        raise HeadError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return verified_head(note, keys)
    except HeadError as error:
        raise HeadError(f"{path}: {error}") from None


def signed_head(reader: LogReader, signers: Sequence[SignerKey], keys: Sequence[VerifierKey] = ()) -> SignedHead:
    """Sign a checkpoint of the journal as it is; nothing is written.

    What was signed before binds: where a checkpoint lies beside the journal, the new one has to continue it.

    Args:
        keys: that earlier checkpoints may be signed by, beside those of `signers`.
    Raises:
        HeadError: it does not, so that signing would make two heads of which neither continues the other.
    """
    own = [signer.verifier for signer in signers]
    if checkpoint_path(reader.path).exists():
        refuse_not_continued(reader, newest_head(reader.path, keys or own).checkpoint)
    checkpoint = Checkpoint(signers[0].name, reader.size, reader.root(reader.size))
    return verified_head(sign_checkpoint(checkpoint, signers), own)


def refuse_not_continued(reader: LogReader, checkpoint: Checkpoint) -> None:
    """Make sure that a journal continues what was signed of it.

    Raises:
        HeadError: it is shorter, or its entries up to there are others.
    """
    if checkpoint.size > reader.size:
        raise HeadError(
            f"{reader.path} ends at entry {reader.size}, and a checkpoint of {checkpoint.size} entries was signed: "
            "its tail is cut, or it is an older copy"
        )
    if reader.root(checkpoint.size) != checkpoint.root:
        raise HeadError(
            f"the first {checkpoint.size} entries of {reader.path} are not those that were signed: "
            "holdfast audit verify says which differ"
        )


def verifier_keys(text: str) -> tuple[VerifierKey, ...]:
    """The verifier keys that a text names, one a line; empty lines and lines that begin with # say nothing.

    Raises:
        HeadError: a line is no verifier key, or there is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    try:
        keys = tuple(VerifierKey.parse(line) for line in lines if line and not line.startswith("#"))
    except NoteError as error:
        raise HeadError(f"not a verifier key: {error}") from None
    if not keys:
        raise HeadError("there is no verifier key: NAME+ID+BASE64 is expected")
    return keys


def verifier_keys_of(named: str) -> tuple[VerifierKey, ...]:
    """The verifier keys that an option names: a file of them, or a key itself.

    Raises:
        HeadError: neither.
    """
    path = Path(named)
    try:
        if path.is_file():
            with path.open("rb") as file:
                return verifier_keys(file.read(_KEY_FILE_BYTES_MAX).decode())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise HeadError(f"{named} cannot be read as a file of verifier keys: {error}") from None
    if path.exists():
        raise HeadError(f"{named} is not a regular file: name the file that holds the verifier keys")
    if "+" not in named:
        raise HeadError(f"{named} does not exist, and is no verifier key either")
    return verifier_keys(named)
