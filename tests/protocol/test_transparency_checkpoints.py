"""Checkpoints by c2sp.org/tlog-checkpoint, and proofs in one file by c2sp.org/tlog-proof."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.transparency.checkpoints import Checkpoint, CheckpointError, open_checkpoint, sign_checkpoint
from protocol.transparency.notes import NoteError, NotSigned, SignatureRefused, SignerKey, parse_note, sign_note
from protocol.transparency.proofs import ProofError, prove_inclusion
from protocol.transparency.text import decode_decimal
from protocol.transparency.tlog_proof import TlogProof, TlogProofError
from protocol.transparency.tree import EMPTY_ROOT, SIZE_MAX, frontier_at, leaf_hash
from tests.acceptance.logs import ORIGIN, SIGNER, GrownLog, journal_entry

SPEC_CHECKPOINT = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""
KEYS = [SIGNER.verifier]
WITNESS = SignerKey("witness.example", bytes(32))
ROOT = leaf_hash(b"root")
LOG = GrownLog([journal_entry(sequence) for sequence in range(1, 301)])


def test_the_example_of_the_specification_is_read_and_written_the_same() -> None:
    text = parse_note(SPEC_CHECKPOINT.encode()).text
    checkpoint = Checkpoint.parse(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.root.hex() == "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    assert checkpoint.text == text


@given(
    st.integers(0, SIZE_MAX),
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=3).map(tuple),
)
def test_every_checkpoint_that_is_signed_opens_as_it_was(size: int, extensions: tuple[str, ...]) -> None:
    checkpoint = Checkpoint(ORIGIN, size, ROOT if size else EMPTY_ROOT, extensions)
    assert open_checkpoint(sign_checkpoint(checkpoint, [SIGNER]), ORIGIN, KEYS) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n5\n",
        f"{ORIGIN}\n5\nROOT",
        "\n5\nROOT\n",
        f"{ORIGIN}\n\nROOT\n",
        f"{ORIGIN}\n5\n\n",
        f"{ORIGIN}\n05\nROOT\n",
        f"{ORIGIN}\n+5\nROOT\n",
        f"{ORIGIN}\n-5\nROOT\n",
        f"{ORIGIN}\n5 \nROOT\n",
        f"{ORIGIN}\n5_0\nROOT\n",
        f"{ORIGIN}\n٥\nROOT\n",
        f"{ORIGIN}\n9223372036854775808\nROOT\n",
        f"{ORIGIN}\n{'9' * 5000}\nROOT\n",
        f"{ORIGIN}\n0\nROOT\n",
        f"{ORIGIN}\n5\nROOT=\n",
        f"{ORIGIN}\n5\nAAAA\n",
        f"{ORIGIN}\n5\nROOT\n\n",
        f"{ORIGIN}\n5\nROOT\n\nextension\n",
        f"{ORIGIN}\n5\nROOT\nextension",
    ],
)
def test_what_is_not_of_the_form_is_no_checkpoint(text: str) -> None:
    root = Checkpoint(ORIGIN, 5, ROOT).text.split("\n")[2]
    Checkpoint.parse(f"{ORIGIN}\n5\n{root}\n")
    with pytest.raises(CheckpointError):
        Checkpoint.parse(text.replace("ROOT", root))


def test_a_number_is_written_in_one_way_and_has_a_most() -> None:
    assert [decode_decimal(text) for text in ("0", "10", str(SIZE_MAX))] == [0, 10, SIZE_MAX]
    for text in ("", "00", "01", "-1", "+1", "1_0", " 1", "1\n", "٥", str(SIZE_MAX + 1), "1" * 20):
        with pytest.raises(ValueError, match=r"not a decimal|more than"):
            decode_decimal(text)


@pytest.mark.parametrize(
    "parts", [("", 5, ROOT), ("a\nb", 5, ROOT), (ORIGIN, -1, ROOT), (ORIGIN, SIZE_MAX + 1, ROOT), (ORIGIN, 5, b"")]
)
def test_what_no_checkpoint_can_say_is_not_made(parts: tuple[str, int, bytes]) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint(*parts)


def test_only_the_logs_own_key_makes_a_checkpoint_of_it() -> None:
    checkpoint = Checkpoint(ORIGIN, 5, ROOT)
    with pytest.raises(CheckpointError):
        sign_checkpoint(checkpoint, [WITNESS])
    of_a_witness = sign_note(checkpoint.text, [WITNESS])
    with pytest.raises(NotSigned):
        open_checkpoint(of_a_witness, ORIGIN, [SIGNER.verifier, WITNESS.verifier])
    with pytest.raises(NotSigned):
        open_checkpoint(of_a_witness, ORIGIN, KEYS)


def test_a_checkpoint_of_another_log_is_not_taken_for_this_one() -> None:
    other = SignerKey("example.org/gateway-8", bytes(range(1, 33)))
    encoded = sign_checkpoint(Checkpoint(other.name, 5, ROOT), [other])
    with pytest.raises(NotSigned):
        open_checkpoint(encoded, ORIGIN, [SIGNER.verifier, other.verifier])
    with pytest.raises(CheckpointError):
        open_checkpoint(sign_note(Checkpoint(other.name, 5, ROOT).text, [SIGNER]), ORIGIN, KEYS)


def test_a_changed_checkpoint_is_refused() -> None:
    encoded = sign_checkpoint(Checkpoint(ORIGIN, 50, ROOT), [SIGNER])
    with pytest.raises(SignatureRefused):
        open_checkpoint(encoded.replace(b"\n50\n", b"\n51\n"), ORIGIN, KEYS)


def proof_of(index: int, size: int, extra: bytes | None = None) -> TlogProof:
    checkpoint = LOG.checkpoint(size, frontier_at(size, LOG.read).root())
    return TlogProof(index, tuple(prove_inclusion(index, size, LOG.read)), checkpoint, extra)


@pytest.mark.parametrize(("index", "size", "extra"), [(0, 1, None), (5, 300, b"\x00" * 5), (299, 300, None)])
def test_a_proof_in_a_file_shows_the_entry_to_who_has_only_the_key(index: int, size: int, extra: bytes | None) -> None:
    encoded = proof_of(index, size, extra).encode()
    read = TlogProof.parse(encoded)
    assert read == proof_of(index, size, extra)
    assert read.encode() == encoded
    checkpoint = read.verify(leaf_hash(journal_entry(index + 1)), ORIGIN, KEYS)
    assert checkpoint.size == size
    with pytest.raises(ProofError):
        read.verify(leaf_hash(journal_entry(index + 2)), ORIGIN, KEYS)
    with pytest.raises(NoteError):
        read.verify(leaf_hash(journal_entry(index + 1)), ORIGIN, [WITNESS.verifier])
    with pytest.raises(NoteError):
        read.verify(leaf_hash(journal_entry(index + 1)), "example.org/gateway-8", KEYS)


def test_a_proof_in_a_file_is_written_as_the_specification_has_it() -> None:
    lines = proof_of(2, 3, b"extra").encode().decode().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra ZXh0cmE=", "index 2"]
    assert lines[4:7] == ["", ORIGIN, "3"]
    assert proof_of(2, 3).encode().decode().split("\n")[1] == "index 2"


def test_no_flipped_byte_of_a_proof_in_a_file_is_accepted() -> None:
    encoded = proof_of(5, 300).encode()
    leaf = LOG.leaf(5)
    for place in range(len(encoded)):
        for mask in (0x01, 0x20, 0xFF):
            flipped = bytearray(encoded)
            flipped[place] ^= mask
            with pytest.raises((TlogProofError, NoteError, ProofError)):
                TlogProof.parse(bytes(flipped)).verify(leaf, ORIGIN, KEYS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
        ("extra ZXh0cmE=\n", "extra \n"),
        ("extra ZXh0cmE=\n", "extra ZXh0cmE\n"),
        ("extra ZXh0cmE=\n", "extra ZXh0cmE=\nextra ZXh0cmE=\n"),
        ("extra ZXh0cmE=\nindex 2\n", "index 2\nextra ZXh0cmE=\n"),
        ("index 2\n", ""),
        ("index 2\n", "index 02\n"),
        ("index 2\n", "index 2 \n"),
        ("index 2\n", "index -2\n"),
        ("index 2\n", "index 2\nAAAA\n"),
        ("index 2\n", "index 2\n" + ("A" * 43 + "=\n") * 64),
        ("index 2\n", "index 2\nÄ\n"),
    ],
)
def test_what_is_not_of_the_form_is_no_proof_in_a_file(old: str, new: str) -> None:
    text = proof_of(2, 3, b"extra").encode().decode()
    assert old in text
    with pytest.raises(TlogProofError):
        TlogProof.parse(text.replace(old, new, 1).encode())


def test_a_proof_in_a_file_needs_its_checkpoint() -> None:
    encoded = proof_of(2, 3).encode()
    for end in (0, 10, encoded.index(b"\n\n"), encoded.index(b"\n\n") + 1):
        with pytest.raises(TlogProofError):
            TlogProof.parse(encoded[:end])
