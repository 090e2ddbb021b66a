"""Signed notes by c2sp.org/signed-note: what is signed cannot be changed, and there is one way to write it."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.transparency.notes import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Note,
    NoteError,
    NotSigned,
    Signature,
    SignatureRefused,
    SignerKey,
    VerifierKey,
    parse_note,
    sign_note,
    verify_note,
)

SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
"""The example of the specification, section "Verifier keys"."""

POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore \
NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""
"""The specification's first example: its text has an empty line."""

GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.
"""
GO_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
"""The example of Go's golang.org/x/mod/sumdb/note: its signer key, and the signature that Go makes with it."""

OLD = SignerKey("example.org/gateway-7", bytes(range(32)))
NEW = SignerKey("example.org/gateway-7", bytes(range(32, 64)))
WITNESS = SignerKey("witness.example", bytes(32))


def test_the_example_of_the_specification_verifies() -> None:
    key = VerifierKey.parse(SPEC_KEY)
    note = parse_note(SPEC_NOTE.encode())
    assert note.text == "This is an example message.\n"
    assert verify_note(note, [key]) == (key,)
    assert note.encode() == SPEC_NOTE.encode()
    assert key.text == SPEC_KEY


def test_the_last_empty_line_parts_the_text_from_the_signatures() -> None:
    note = parse_note(POEM.encode())
    assert note.text.endswith("sole:\n\ned è subito sera.\n")
    assert [each.name for each in note.signatures] == ["quasimodo.example/salvatore"]
    assert note.encode() == POEM.encode()


def test_the_example_of_go_is_signed_with_the_same_bytes() -> None:
    signer = SignerKey.parse(GO_SIGNER)
    assert signer.secret_text == GO_SIGNER
    assert signer.verifier.text == GO_KEY
    assert sign_note(GO_TEXT, [signer]).decode() == GO_TEXT + "\n" + GO_LINE


def test_no_flipped_bit_of_a_note_is_accepted() -> None:
    encoded = sign_note("example text\nwith a line\n", [OLD])
    for place in range(len(encoded)):
        for bit in range(8):
            flipped = bytearray(encoded)
            flipped[place] ^= 1 << bit
            with pytest.raises(NoteError):
                verify_note(parse_note(bytes(flipped)), [OLD.verifier])


def test_no_flipped_byte_of_a_note_with_two_signatures_changes_what_is_signed() -> None:
    encoded = sign_note("example text\n", [OLD, NEW])
    keys = [OLD.verifier, NEW.verifier]
    still_good = 0
    for place in range(len(encoded)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            flipped = bytearray(encoded)
            flipped[place] ^= mask
            try:
                note = parse_note(bytes(flipped))
                signed = verify_note(note, keys)
            except NoteError:
                continue
            # A name or an id became another one: that key is unknown now, and the other one has signed.
            assert note.text == "example text\n"
            assert len(signed) == 1
            still_good += 1
    assert still_good > 20


def test_a_note_that_was_cut_or_lengthened_anywhere_is_refused() -> None:
    encoded = sign_note("example text\n", [OLD])
    for wrong in (*(encoded[:end] for end in range(len(encoded))), encoded + b"\n", encoded + b"x", b"\n" + encoded):
        with pytest.raises(NoteError):
            verify_note(parse_note(wrong), [OLD.verifier])


def test_keys_rotate_by_signing_with_the_old_and_the_new_one() -> None:
    note = parse_note(sign_note("text\n", [OLD, NEW]))
    assert verify_note(note, [OLD.verifier]) == (OLD.verifier,)
    assert verify_note(note, [NEW.verifier]) == (NEW.verifier,)
    assert verify_note(note, [NEW.verifier, OLD.verifier, OLD.verifier]) == (OLD.verifier, NEW.verifier)
    with pytest.raises(NotSigned):
        verify_note(note, [WITNESS.verifier])
    with pytest.raises(NotSigned):
        verify_note(note, [])


def test_an_unknown_key_is_passed_over_even_with_the_name_or_the_id_of_a_known_one() -> None:
    good = OLD.sign("text\n")
    same_name = Signature(OLD.name, b"\x00\x01\x02\x03", bytes(64))
    same_id = Signature("another.example", OLD.verifier.key_id, bytes(64))
    other_type = Signature("witness.example", b"\x04\x04\x04\x04", bytes(72))
    note = parse_note(Note("text\n", (same_name, same_id, other_type, good)).encode())
    assert verify_note(note, [OLD.verifier]) == (OLD.verifier,)


def test_a_known_key_whose_signature_fails_refuses_the_whole_note() -> None:
    false = Signature(NEW.name, NEW.verifier.key_id, OLD.sign("text\n").signature)
    note = parse_note(Note("text\n", (OLD.sign("text\n"), false)).encode())
    assert verify_note(note, [OLD.verifier]) == (OLD.verifier,)
    with pytest.raises(SignatureRefused):
        verify_note(note, [OLD.verifier, NEW.verifier])
    short = Signature(OLD.name, OLD.verifier.key_id, b"\x00")
    with pytest.raises(SignatureRefused):
        verify_note(parse_note(Note("text\n", (OLD.sign("text\n"), short)).encode()), [OLD.verifier])


def test_a_cosignature_is_added_without_touching_what_is_there() -> None:
    encoded = sign_note("text\n", [OLD])
    note = parse_note(encoded)
    both = Note(note.text, (*note.signatures, WITNESS.sign(note.text))).encode()
    assert both.startswith(encoded)
    assert verify_note(parse_note(both), [OLD.verifier, WITNESS.verifier]) == (OLD.verifier, WITNESS.verifier)


LINE = OLD.sign("text\n").line


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "\n",
        "text\n",
        "text\n\n",
        "text" + LINE,
        "text\n" + LINE,
        "text\n\n" + LINE.removesuffix("\n"),
        "text\n\n" + LINE + "\n",
        "text\n\n" + LINE + "more\n",
        "text\n\n" + LINE.replace("—", "-"),
        "text\n\n" + LINE.replace("— ", "—"),
        "text\n\n" + LINE.replace("— ", "—  "),
        "text\n\n" + LINE.replace("\n", " \n"),
        "text\n\n" + LINE.replace("\n", "=\n"),
        "text\n\n" + LINE.replace("example.org", "example+org"),
        "text\n\n" + LINE.replace("example.org", "example\u2003org"),
        "text\n\n" + LINE.replace("example.org", "example\tорг"),
        "text\n\n— example.org/gateway-7\n",
        "text\n\n— example.org/gateway-7 \n",
        "text\n\n— example.org/gateway-7 AAAAAA==\n",
        "te\txt\n\n" + LINE,
        "te\x00xt\n\n" + LINE,
        "text\r\n\r\n" + LINE,
        "te\x1fxt\n\n" + LINE,
        "text\n\n" + LINE * (SIGNATURES_MAX + 1),
        "x" * NOTE_BYTES_MAX + "\n\n" + LINE,
    ],
)
def test_what_is_not_of_the_form_is_no_note(wrong: str) -> None:
    with pytest.raises(NoteError):
        parse_note(wrong.encode())


@pytest.mark.parametrize("octets", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"])
def test_a_note_is_utf8(octets: bytes) -> None:
    with pytest.raises(NoteError):
        parse_note(b"text" + octets + b"\n\n" + LINE.encode())


def test_base64_with_other_pad_bits_is_not_a_second_way_to_write_a_signature() -> None:
    assert LINE.endswith("=\n")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = LINE[-3]
    other = letters[letters.index(last) + 1]
    written = LINE[:-3] + other + LINE[-2:]
    assert base64.b64decode(written.split()[-1]) == base64.b64decode(LINE.split()[-1])
    with pytest.raises(NoteError):
        parse_note(("text\n\n" + written).encode())


@pytest.mark.parametrize("text", ["", "text", "te\txt\n", "text\r\n", "te\x00xt\n", "\ud800\n"])
def test_what_no_note_can_hold_is_not_signed(text: str) -> None:
    with pytest.raises(NoteError):
        sign_note(text, [OLD])


def test_nobody_or_one_key_twice_does_not_sign() -> None:
    for signers in ([], [OLD, OLD]):
        with pytest.raises(NoteError):
            sign_note("text\n", signers)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n")), st.binary(min_size=32, max_size=32))
def test_every_text_that_is_signed_comes_back(text: str, seed: bytes) -> None:
    signer = SignerKey("example.org/a", seed)
    encoded = sign_note(text + "\n", [signer])
    note = parse_note(encoded)
    assert note.text == text + "\n"
    assert verify_note(note, [signer.verifier]) == (signer.verifier,)
    assert sign_note(text + "\n", [SignerKey.parse(signer.secret_text)]) == encoded


@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: text.encode() + b"\n\n" + LINE.encode()))
def test_any_bytes_are_a_note_that_is_written_the_same_or_none(octets: bytes) -> None:
    try:
        note = parse_note(octets)
    except NoteError:
        return
    assert note.encode() == octets


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        SPEC_KEY.replace("530d903a", "530d903b"),
        SPEC_KEY.replace("530d903a", "530D903A"),
        SPEC_KEY.replace("530d903a", "0530d903a"),
        SPEC_KEY.replace("foo", "bar"),
        SPEC_KEY.replace("example.com/foo", ""),
        SPEC_KEY.replace("foo", "f oo"),
        SPEC_KEY + "\n",
        SPEC_KEY[:-4],
        SPEC_KEY.replace("+Aek", "+Bek"),
        SPEC_KEY.replace("+Aek", "+Äek"),
        GO_SIGNER,
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        VerifierKey.parse(text)


@pytest.mark.parametrize("text", ["", GO_KEY, GO_SIGNER.replace("c74f20a3", "c74f20a4"), GO_SIGNER.replace("KEY", "")])
def test_what_is_no_signer_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        SignerKey.parse(text)


@pytest.mark.parametrize("key_type", [0x00, 0x02, 0x04, 0x06, 0xFF])
def test_a_key_of_another_type_is_refused(key_type: int) -> None:
    material = bytes([key_type]) + OLD.verifier.public
    key_id = sha256(b"example.com/foo\n" + material).hexdigest()[:8]
    with pytest.raises(NoteError, match="only Ed25519"):
        VerifierKey.parse(f"example.com/foo+{key_id}+{base64.b64encode(material).decode()}")


@pytest.mark.parametrize(
    "public",
    [
        bytes(32),
        b"\x01" + bytes(31),
        b"\x01" + bytes(30) + b"\x80",
        b"\xec" + b"\xff" * 30 + b"\x7f",
        b"\xed" + b"\xff" * 30 + b"\x7f",
        b"\xff" * 32,
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
        bytes(31),
    ],
)
def test_a_public_key_that_needs_no_secret_is_refused(public: bytes) -> None:
    """With such a key anybody signs: the log's operator could later say that it was somebody else."""
    with pytest.raises(NoteError):
        VerifierKey("example.org/a", public)


def test_two_keys_that_are_called_the_same_are_not_guessed_between() -> None:
    """An id has 32 bits, so that two keys of one name with the same id are found at once."""
    same = [VerifierKey(OLD.name, number.to_bytes(32, "little")) for number in (103_937, 105_374)]
    assert same[0].key_id == same[1].key_id
    note = parse_note(sign_note("text\n", [OLD]))
    assert verify_note(note, [OLD.verifier, same[0]]) == (OLD.verifier,)
    with pytest.raises(NoteError, match="two different keys"):
        verify_note(note, [OLD.verifier, *same])


def test_a_signer_key_does_not_show_its_seed() -> None:
    assert repr(OLD) == "SignerKey(name='example.org/gateway-7')"
