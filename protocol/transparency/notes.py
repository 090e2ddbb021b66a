"""Signed notes: a text, an empty line, and a line for each signature. c2sp.org/signed-note v1.0.0, with Ed25519.

    This is the text. It may have several lines.

    — example.org/gateway-7 Uw2QOkn8srV1yJGh2VYRlL1T...

A signature line is an em dash (U+2014), a space, the key's name, a space, and the base64 of the key id and the
signature. The signature is over the text with its last newline, without the empty line.

Keys have a text form. Both name the id, the first 4 bytes of SHA-256(name | 0A | 01 | public key):

    NAME+ID+BASE64(01 | public key)               verifier key, to be handed out
    PRIVATE+KEY+NAME+ID+BASE64(01 | seed)         signer key, secret (the form of Go's golang.org/x/mod/sumdb/note)

A key is known by its name and id together. A signature of an unknown key means nothing and is passed over; one of a
known key must verify, or the whole note is refused. So a key is rotated by signing with the old and the new one for a
while.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.transparency.text import decode_base64, encode_base64

NOTE_BYTES_MAX: Final = 1_000_000
SIGNATURES_MAX: Final = 100
"""The specification wants a limit of at least 16; this is the one of Go's reader."""

_ED25519: Final = b"\x01"
_KEY_BYTES: Final = 32
_EM_DASH: Final = "\N{EM DASH} "
_PRIVATE: Final = "PRIVATE+KEY+"
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")
_KEY_ID: Final = re.compile("[0-9a-f]{8}")

_FIELD_PRIME: Final = 2**255 - 19
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)
"""The y of Ed25519's eight points of small order: for such a "key" anybody can make a signature without a secret."""


class NoteError(ValueError):
    """A note, text or key that is not of the form; the message holds nothing of a secret."""


class SignatureRefused(NoteError):
    """A known key's signature does not fit the text: the text, the signature or the key was changed."""


class NotSigned(NoteError):
    """The note is well formed, and no known key has signed it."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under the name that it signs for.

    Attributes:
        name: not empty, without Unicode spaces, control characters and plus; for a log's key, the log's origin.
        public: 32 bytes, RFC 8032.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public) != _KEY_BYTES:
            raise NoteError("an Ed25519 public key has 32 bytes")
        y = int.from_bytes(self.public, "little") & ((1 << 255) - 1)
        if y >= _FIELD_PRIME or y in _SMALL_ORDER_Y:
            raise NoteError("not a public key that stands for a secret one")

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name | 0A | 01 | public key)."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    @property
    def text(self) -> str:
        """The verifier key as it is handed out, `NAME+ID+BASE64(01 | public key)`."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key that `text` writes.

        Raises:
            NoteError: not a verifier key, of another signature type than Ed25519, or with an id that is not its own.
        """
        name, key_id, public = _parse_key(text)
        key = cls(name, public)
        if key.key_id != key_id:
            raise NoteError("the key's id is not the one of its name and public key")
        return key

    def verify(self, text: str, signature: bytes) -> None:
        """Check this key's signature of a note's text.

        Raises:
            SignatureRefused: it is none.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            raise SignatureRefused(f"the signature of {self.name}+{self.key_id.hex()} does not verify") from None


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A secret key under the name that it signs for; its `repr` does not show it.

    Attributes:
        name: as of `VerifierKey`.
        seed: 32 bytes, the private key of RFC 8032 section 5.1.5.
    """

    name: str
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.seed) != _KEY_BYTES:
            raise NoteError("an Ed25519 seed has 32 bytes")

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return VerifierKey(self.name, private.public_key().public_bytes_raw())

    @property
    def secret_text(self) -> str:
        """The signer key as it is stored, `PRIVATE+KEY+NAME+ID+BASE64(01 | seed)`: a secret."""
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{encode_base64(_ED25519 + self.seed)}"

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """The key that `text` writes.

        Raises:
            NoteError: not a signer key, of another type than Ed25519, or with an id that is not its own.
        """
        if not text.startswith(_PRIVATE):
            raise NoteError("a signer key begins with PRIVATE+KEY+")
        name, key_id, seed = _parse_key(text.removeprefix(_PRIVATE))
        key = cls(name, seed)
        if key.verifier.key_id != key_id:
            raise NoteError("the key's id is not the one of its name and public key")
        return key

    def sign(self, text: str) -> Signature:
        """This key's signature of a note's text; the same each time, as Ed25519 is deterministic (RFC 8032)."""
        signed = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return Signature(self.name, self.verifier.key_id, signed)


class Signature(NamedTuple):
    """A signature line: who claims to have signed, and with what. It means nothing before a key has verified it."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The line as it stands in a note, with its newline."""
        return f"{_EM_DASH}{self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it was read. Its text must be ignored until `verify_note` has said whose it is.

    Attributes:
        text: with its last newline; may have empty lines.
        signatures: in their order; at least one and at most 100.
    """

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note's bytes.

        Raises:
            NoteError: a text or signature that cannot stand in a note.
        """
        if not self.text.endswith("\n"):
            raise NoteError("a note's text ends with a newline")
        if not 1 <= len(self.signatures) <= SIGNATURES_MAX:
            raise NoteError("a note has from 1 to 100 signatures")
        if any(len(each.key_id) != 4 or not each.signature for each in self.signatures):
            raise NoteError("a signature has a key id of 4 bytes, and something after it")
        for each in self.signatures:
            _check_name(each.name)
        encoded = _utf8(self.text + "\n" + "".join(each.line for each in self.signatures))
        if _CONTROL.search(self.text):
            raise NoteError("a note has no control character but the newline")
        if len(encoded) > NOTE_BYTES_MAX:
            raise NoteError("a note has at most 1,000,000 bytes")
        return encoded


def sign_note(text: str, signers: Sequence[SignerKey]) -> bytes:
    """`text` as a note with a signature of each of `signers`, in their order.

    Raises:
        NoteError: the text does not end with a newline or has control characters, or nobody signs, or one key twice.
    """
    _utf8(text)
    if len(set(signers)) != len(signers):
        raise NoteError("a key signs a note once")
    return Note(text, tuple(signer.sign(text) for signer in signers)).encode()


def parse_note(encoded: bytes) -> Note:
    """The parts of a note. Nothing is verified.

    Raises:
        NoteError: not a signed note, by the section "Format".
    """
    if len(encoded) > NOTE_BYTES_MAX:
        raise NoteError("a note has at most 1,000,000 bytes")
    try:
        whole = encoded.decode()
    except UnicodeDecodeError:
        raise NoteError("a note is UTF-8") from None
    if _CONTROL.search(whole):
        raise NoteError("a note has no control character but the newline")
    # The last empty line parts the text from the signatures; the text itself may have others.
    before, empty_line, after = whole.rpartition("\n\n")
    if not empty_line or not after:
        raise NoteError("a note has an empty line, and signatures after it")
    if not after.endswith("\n"):
        raise NoteError("a note ends with a newline")
    lines = after.removesuffix("\n").split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise NoteError("a note has at most 100 signatures")
    return Note(before + "\n", tuple(map(_parse_signature, lines)))


def verify_note(note: Note, keys: Sequence[VerifierKey]) -> tuple[VerifierKey, ...]:
    """Who of `keys` has signed the note, in the order of the signatures; never nobody. Section "Signatures".

    Raises:
        SignatureRefused: a signature under the name and id of one of `keys` does not verify; the whole note is refused.
        NotSigned: none of `keys` has signed.
        NoteError: two different keys in `keys` have the same name and id.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise NoteError(f"two different keys are called {key.name}+{key.key_id.hex()}")
    signed: dict[VerifierKey, None] = {}
    for each in note.signatures:
        signer = known.get((each.name, each.key_id))
        if signer is not None:
            signer.verify(note.text, each.signature)
            signed[signer] = None
    if not signed:
        raise NotSigned("no known key has signed this note")
    return tuple(signed)


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_EM_DASH).partition(" ")
    if not line.startswith(_EM_DASH) or not space:
        raise NoteError("a signature line is an em dash, a name and base64, with a space between")
    _check_name(name)
    try:
        octets = decode_base64(encoded)
    except ValueError:
        raise NoteError("a signature is base64") from None
    if len(octets) < 5:
        raise NoteError("a signature has a key id of 4 bytes, and something after it")
    return Signature(name, octets[:4], octets[4:])


def _parse_key(text: str) -> tuple[str, bytes, bytes]:
    """Name, id and the 32 bytes of a key in text form."""
    parts = text.split("+", 2)  # base64 may have a plus, a name may not
    if len(parts) != 3 or not _KEY_ID.fullmatch(parts[1]):
        raise NoteError("a key is NAME+ID+BASE64 with an id of 8 lowercase hex digits")
    try:
        octets = decode_base64(parts[2])
    except ValueError:
        raise NoteError("a key's last part is base64") from None
    if octets[:1] != _ED25519 or len(octets) != 1 + _KEY_BYTES:
        raise NoteError("only Ed25519 keys (type 01, 32 bytes) are known here")
    return parts[0], bytes.fromhex(parts[1]), octets[1:]


def _check_name(name: str) -> None:
    if not name or "+" in name or any(character.isspace() for character in name) or _CONTROL.search(name):
        raise NoteError("a key's name is not empty and has no space, no plus and no control character")
    _utf8(name)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise NoteError("not text that UTF-8 can write") from None
