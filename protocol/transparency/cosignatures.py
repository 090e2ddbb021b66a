"""What a witness signs: that it saw this checkpoint at this time. c2sp.org/tlog-cosignature, cosignature/v1 (Ed25519).

A cosignature is a signature line of the checkpoint's note. Its octets are the time, in 8 bytes, and the signature of

    cosignature/v1
    time 1679315147
    example.org/gateway-7
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

that is of two lines and the note's text. The witness's key is written like a log's, with the type 04 instead of 01:

    NAME+ID+BASE64(04 | public key)               id: first 4 bytes of SHA-256(name | 0A | 04 | public key)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from protocol.transparency.notes import Note, NoteError, Signature, SignatureRefused, SignerKey, VerifierKey
from protocol.transparency.text import NUMBER_MAX, decode_base64, encode_base64

_COSIGNATURE: Final = b"\x04"
_TIME_BYTES: Final = 8
_KEY_BYTES: Final = 32


class Cosigned(NamedTuple):
    """A cosignature that was verified: by whom, and the time that it tells, in seconds since 1970-01-01 UTC."""

    name: str
    time_s: int


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's public key under the name that it cosigns with.

    Attributes:
        name: as of `VerifierKey`.
        public: 32 bytes, RFC 8032.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        VerifierKey(self.name, self.public)  # the same rules hold, and it says which is broken

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name | 0A | 04 | public key)."""
        return sha256(self.name.encode() + b"\n" + _COSIGNATURE + self.public).digest()[:4]

    @property
    def text(self) -> str:
        """The key as it is handed out, `NAME+ID+BASE64(04 | public key)`."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(_COSIGNATURE + self.public)}"

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """The key that `text` writes.

        Raises:
            NoteError: not a witness's key, or with an id that is not its own.
        """
        parts = text.split("+", 2)  # base64 may have a plus, a name may not
        if len(parts) != 3:
            raise NoteError("a key is NAME+ID+BASE64")
        try:
            octets = decode_base64(parts[2])
        except ValueError:
            raise NoteError("a key's last part is base64") from None
        if octets[:1] != _COSIGNATURE or len(octets) != 1 + _KEY_BYTES:
            raise NoteError("only Ed25519 keys of witnesses (type 04, 32 bytes) are known here")
        key = cls(parts[0], octets[1:])
        if key.key_id.hex() != parts[1]:
            raise NoteError("the key's id is not the one of its name and public key")
        return key

    def verify(self, text: str, signature: bytes) -> Cosigned:
        """Check this witness's cosignature of a checkpoint's text.

        Raises:
            SignatureRefused: it is none.
        """
        time_s = int.from_bytes(signature[:_TIME_BYTES])
        if len(signature) <= _TIME_BYTES or time_s > NUMBER_MAX:
            raise SignatureRefused("a cosignature is a time in 8 bytes and a signature")
        VerifierKey(self.name, self.public).verify(_message(time_s, text), signature[_TIME_BYTES:])
        return Cosigned(self.name, time_s)


def cosign(text: str, name: str, seed: bytes, time_s: int) -> Signature:
    """What a witness answers: its signature line for a checkpoint's text.

    Args:
        seed: 32 bytes, the witness's secret key.
        time_s: seconds since 1970-01-01 UTC.
    Raises:
        NoteError: not a name or a seed.
    """
    signer = SignerKey(name, seed)
    signed = signer.sign(_message(time_s, text)).signature
    return Signature(name, WitnessKey(name, signer.verifier.public).key_id, time_s.to_bytes(_TIME_BYTES) + signed)


def verify_cosignatures(note: Note, keys: Sequence[WitnessKey]) -> tuple[Cosigned, ...]:
    """Which of `keys` have cosigned the note, in the order of the signatures; may be nobody.

    Raises:
        SignatureRefused: a signature under the name and id of one of `keys` does not verify; the whole note is refused.
    """
    known = {(key.name, key.key_id): key for key in keys}
    return tuple(
        known[each.name, each.key_id].verify(note.text, each.signature)
        for each in note.signatures
        if (each.name, each.key_id) in known
    )


def _message(time_s: int, text: str) -> str:
    return f"cosignature/v1\ntime {time_s}\n{text}"
