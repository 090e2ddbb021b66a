"""Other people's verifiers accept what our log says, and refuse what it must not say."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.transparency.notes import Note, Signature, SignerKey, parse_note, sign_note
from protocol.transparency.proofs import prove_consistency, prove_inclusion
from protocol.transparency.text import encode_base64
from protocol.transparency.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tile, build_bundle, split_bundle
from protocol.transparency.tree import frontier_at
from tests.acceptance.logs import ORIGIN, SIGNER, GrownLog, journal_entry
from tests.acceptance.verifiers import aics_tlog, ask_aics, ask_sumdb, compile_sumdb

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("acceptance")]

SEED = 20_862
SIZE = 66_000
FIRST = 40_321
NEW = SignerKey(ORIGIN, bytes(range(32, 64)))
WITNESS = SignerKey("witness.example", bytes(32))
Question = dict[str, Any]


@pytest.fixture(scope="module")
def log() -> GrownLog:
    return GrownLog([journal_entry(sequence) for sequence in range(1, SIZE + 1)], random.Random(SEED))


@pytest.fixture(scope="module")
def fork(log: GrownLog) -> GrownLog:
    """The same log with one entry of its past rewritten."""
    return GrownLog([*log.entries[:777], journal_entry(SIZE + 1), *log.entries[778:]])


@pytest.fixture(scope="module")
def sumdb(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Question]], list[str]]:
    program = compile_sumdb(tmp_path_factory.mktemp("go"))
    return lambda questions: ask_sumdb(program, questions)


@pytest.fixture(scope="module")
def published(log: GrownLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the log publishes, in two steps as it grew."""
    folder = tmp_path_factory.mktemp("published")
    GrownLog(log.entries[:FIRST]).publish(folder)
    log.publish(folder, since=FIRST)
    return folder


def inclusion(log: GrownLog, index: int, size: int) -> Question:
    return {
        "Kind": "inclusion",
        "Entry": log.entries[index],
        "Index": index,
        "Size": size,
        "Root": frontier_at(size, log.read).root(),
        "Proof": prove_inclusion(index, size, log.read),
    }


def consistency(log: GrownLog, first: int, size: int) -> Question:
    return {
        "Kind": "consistency",
        "First": first,
        "Begun": frontier_at(first, log.read).root(),
        "Size": size,
        "Root": frontier_at(size, log.read).root(),
        "Proof": prove_consistency(first, size, log.read),
    }


def with_flipped_bit(octets: bytes, place: int = 0) -> bytes:
    return octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :]


def spoilt_proofs(true: list[bytes]) -> list[list[bytes]]:
    return [
        true[:-1],
        true[1:],
        [*true, true[0]],
        [true[1], true[0], *true[2:]],
        [with_flipped_bit(true[0]), *true[1:]],
        [*true[:-1], with_flipped_bit(true[-1], 31)],
    ]


def test_go_accepts_every_kind_of_inclusion_and_consistency(
    log: GrownLog, sumdb: Callable[[list[Question]], list[str]]
) -> None:
    chosen = random.Random(SEED)
    sizes = [1, 2, 3, 255, 256, 257, 65_535, 65_536, 65_537, SIZE, *(chosen.randint(1, SIZE) for _ in range(20))]
    questions = []
    for size in sizes:
        questions += [inclusion(log, index, size) for index in {0, size - 1, chosen.randrange(size)}]
        questions += [consistency(log, first, size) for first in {1, size, chosen.randint(1, size)}]
    questions += [inclusion(log, index, size) for size in range(1, 20) for index in range(size)]
    questions += [consistency(log, first, size) for size in range(1, 20) for first in range(1, size + 1)]
    verdicts = sumdb(questions)
    wrong = [
        (question, verdict) for question, verdict in zip(questions, verdicts, strict=True) if verdict != "accepted"
    ]
    assert not wrong, f"seed {SEED}: {wrong[:3]}"


def test_go_refuses_an_entry_or_a_proof_that_was_changed(
    log: GrownLog, fork: GrownLog, sumdb: Callable[[list[Question]], list[str]]
) -> None:
    true = inclusion(log, 777, SIZE)
    grown = consistency(log, FIRST, SIZE)
    questions = [
        {**true, "Entry": with_flipped_bit(log.entries[777], 20)},
        {**true, "Entry": log.entries[778]},
        {**true, "Entry": fork.entries[777]},
        {**true, "Index": 778},
        {**true, "Index": SIZE},
        {**true, "Size": SIZE - 1, "Root": frontier_at(SIZE - 1, log.read).root()},
        {**true, "Root": fork.frontier.root()},
        *({**true, "Proof": proof} for proof in spoilt_proofs(true["Proof"])),
        {**inclusion(fork, 5, SIZE), "Root": log.frontier.root()},
        {**grown, "Begun": with_flipped_bit(grown["Begun"])},
        {**grown, "Root": fork.frontier.root()},
        {**grown, "First": FIRST + 1},
        {**consistency(fork, FIRST, SIZE), "Begun": grown["Begun"]},
        *({**grown, "Proof": proof} for proof in spoilt_proofs(grown["Proof"])),
    ]
    assert sumdb([true, grown]) == ["accepted", "accepted"]
    accepted = [number for number, verdict in enumerate(sumdb(questions)) if not verdict.startswith("refused: ")]
    assert accepted == []


def test_go_accepts_our_notes_and_refuses_changed_ones(
    log: GrownLog, sumdb: Callable[[list[Question]], list[str]]
) -> None:
    note = log.checkpoint(SIZE, log.frontier.root())
    text = parse_note(note).text
    known: Question = {"Kind": "note", "Keys": [SIGNER.verifier.text], "Text": text}
    both = log.checkpoint(SIZE, log.frontier.root(), SIGNER, NEW)
    cosigned = Note(text, (*parse_note(note).signatures, WITNESS.sign(text))).encode()
    good: list[Question] = [
        {**known, "Note": note},
        {**known, "Note": both},
        {**known, "Note": both, "Keys": [NEW.verifier.text]},
        {**known, "Note": both, "Keys": [SIGNER.verifier.text, NEW.verifier.text]},
        {**known, "Note": cosigned},
        {**known, "Note": cosigned, "Keys": [SIGNER.verifier.text, WITNESS.verifier.text]},
        {**known, "Note": sign_note("a\n\nb — ç\n", [SIGNER]), "Text": "a\n\nb — ç\n"},
    ]
    assert sumdb(good) == ["accepted"] * len(good)
    false = Signature(NEW.name, NEW.verifier.key_id, SIGNER.sign(text).signature)
    body = len(text.encode())
    bad = [
        *({**known, "Note": with_flipped_bit(note, place)} for place in range(body + 60)),
        {**known, "Note": note, "Keys": [NEW.verifier.text]},
        {**known, "Note": note[:-1]},
        {**known, "Note": note.replace(b"66000", b"66001")},
        {**known, "Note": note.replace("—".encode(), b"-")},
        {
            **known,
            "Note": Note(text, (SIGNER.sign(text), false)).encode(),
            "Keys": [SIGNER.verifier.text, NEW.verifier.text],
        },
    ]
    accepted = [number for number, verdict in enumerate(sumdb(bad)) if not verdict.startswith("refused: ")]
    assert accepted == []


def test_go_reads_our_tiles_and_refuses_a_changed_one(
    log: GrownLog, published: Path, tmp_path: Path, sumdb: Callable[[list[Question]], list[str]]
) -> None:
    places = [0, 255, 256, 777, 65_535, 65_536, SIZE - 1]
    question: Question = {
        "Kind": "tiles",
        "Folder": str(published),
        "Size": SIZE,
        "Root": log.frontier.root(),
        "Places": places,
        "Leaves": [log.entries[place] for place in places],
    }
    spoilt = tmp_path / "spoilt"
    shutil.copytree(published, spoilt)
    tile = spoilt / Tile(0, 3).path
    tile.write_bytes(with_flipped_bit(tile.read_bytes(), 5000))
    refused = sumdb(
        [question, {**question, "Folder": str(spoilt)}, {**question, "Leaves": [*question["Leaves"][1:], b""]}]
    )
    assert refused[0] == "accepted"
    assert [verdict[:8] for verdict in refused[1:]] == ["refused:", "refused:"]


@pytest.fixture(scope="module")
def aics(log: GrownLog, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Asks aics-tlog as an auditor would, with the log's key out of a file of their own."""
    program = aics_tlog()
    key = tmp_path_factory.mktemp("auditor") / "gateway-7.vkey"
    key.write_text(SIGNER.verifier.text + "\n")

    def ask(command: str, *arguments: str | Path) -> dict[str, Any]:
        return ask_aics(program, command, "--vkey-file", key, "--origin", ORIGIN, *arguments)

    return ask


@pytest.fixture
def held(log: GrownLog, tmp_path: Path) -> Path:
    """The checkpoint that the auditor took home earlier."""
    path = tmp_path / "held"
    path.write_bytes(log.checkpoint(FIRST, frontier_at(FIRST, log.read).root()))
    return path


def test_aics_accepts_the_published_log(
    log: GrownLog, published: Path, held: Path, tmp_path: Path, aics: Callable[..., dict[str, Any]]
) -> None:
    head = aics("verify-checkpoint", "--tiles", published)
    assert (head["ok"], head["tiles_ok"], head["size"]) == (True, True, SIZE)
    for index in (0, 777, SIZE - 1):
        entry = tmp_path / "entry"
        entry.write_bytes(log.entries[index])
        assert aics("verify-inclusion", "--tiles", published, "--index", str(index), "--leaf", entry)["ok"], index
    taken = tmp_path / "taken"
    bundle = tmp_path / "bundle.json"
    wanted = "--index", "65536", "--entry-out", taken, "--bundle-out", bundle
    assert aics("verify-inclusion", "--tiles", published, *wanted)["ok"]
    assert taken.read_bytes() == log.entries[65_536]
    assert aics("verify-consistency", "--tiles", published, "--old-checkpoint", held)["ok"]


def test_aics_accepts_our_proofs_and_refuses_changed_ones(
    log: GrownLog, fork: GrownLog, tmp_path: Path, aics: Callable[..., dict[str, Any]]
) -> None:
    checkpoint, entry, proof = tmp_path / "checkpoint", tmp_path / "entry", tmp_path / "proof"
    checkpoint.write_bytes(log.checkpoint(SIZE, log.frontier.root()))
    true = prove_inclusion(777, SIZE, log.read)

    def included(octets: bytes, index: int, path: list[bytes]) -> bool:
        entry.write_bytes(octets)
        proof.write_text("".join(encode_base64(each) + "\n" for each in path))
        arguments = "--checkpoint", checkpoint, "--leaf", entry, "--index", str(index), "--proof", proof
        report = aics("verify-inclusion", *arguments)
        assert report.get("checkpoint_verified", False), report
        return bool(report["ok"])

    assert included(log.entries[777], 777, true)
    assert not included(fork.entries[777], 777, true)
    assert not included(log.entries[777], 778, true)
    for path in spoilt_proofs(true):
        assert not included(log.entries[777], 777, path)

    grown = prove_consistency(FIRST, SIZE, log.read)

    def continued(begun: bytes, root: bytes, path: list[bytes]) -> bool:
        proof.write_text("".join(encode_base64(each) + "\n" for each in path))
        sizes = "--old-size", str(FIRST), "--new-size", str(SIZE), "--proof", proof
        roots = "--old-root", encode_base64(begun), "--new-root", encode_base64(root)
        return bool(aics("verify-consistency", *sizes, *roots)["ok"])

    begun = frontier_at(FIRST, log.read).root()
    assert continued(begun, log.frontier.root(), grown)
    assert not continued(begun, fork.frontier.root(), prove_consistency(FIRST, SIZE, fork.read))
    for path in spoilt_proofs(grown)[:3]:
        assert not continued(begun, log.frontier.root(), path)


def test_aics_refuses_a_changed_checkpoint(log: GrownLog, tmp_path: Path, aics: Callable[..., dict[str, Any]]) -> None:
    note = log.checkpoint(SIZE, log.frontier.root())
    path = tmp_path / "checkpoint"
    for octets, good in (
        (note, True),
        (log.checkpoint(SIZE, log.frontier.root(), SIGNER, NEW), True),
        (log.checkpoint(SIZE, log.frontier.root(), NEW), False),
        (with_flipped_bit(note, len(ORIGIN) + 2), False),
        (with_flipped_bit(note, len(note) - 10), False),
        (note[:-2], False),
    ):
        path.write_bytes(octets)
        assert aics("verify-checkpoint", "--note", path)["ok"] == good


def cut_tail(log: GrownLog, folder: Path) -> None:
    """A restored backup: a shorter log with a good signature."""
    GrownLog(log.entries[: FIRST - 1]).publish(folder)


def rewritten_tail(log: GrownLog, folder: Path) -> None:
    """The operator goes back behind what the auditor holds, and goes on another way."""
    GrownLog([*log.entries[: FIRST - 5], *(journal_entry(SIZE + more) for more in range(1, 900))]).publish(folder)


def changed_entry(log: GrownLog, folder: Path) -> None:
    change_bundle(folder, lambda entries: [*entries[:9], with_flipped_bit(entries[9], 30), *entries[10:]])


def swapped_entries(log: GrownLog, folder: Path) -> None:
    change_bundle(folder, lambda entries: [*entries[:9], entries[10], entries[9], *entries[11:]])


def dropped_entry(log: GrownLog, folder: Path) -> None:
    change_bundle(folder, lambda entries: [*entries[:9], *entries[10:]])


def changed_tile(log: GrownLog, folder: Path) -> None:
    tile = folder / Tile(1, 0).path
    tile.write_bytes(with_flipped_bit(tile.read_bytes(), 3 * 32))


def change_bundle(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    bundle = folder / Tile(None, 3).path
    bundle.write_bytes(build_bundle(change(split_bundle(bundle.read_bytes(), TILE_WIDTH))))


@pytest.mark.parametrize(
    ("damage", "index", "reason"),
    [
        (cut_tail, None, "is older than the saved one"),
        (rewritten_tail, None, "history was rewritten"),
        (changed_tile, None, "does not match"),
        (changed_entry, 3 * TILE_WIDTH + 9, "does not match"),
        (swapped_entries, 3 * TILE_WIDTH + 10, "does not match"),
        (dropped_entry, 3 * TILE_WIDTH + 9, "malformed"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_aics_refuses_a_published_log_with_damage(
    damage: Callable[[GrownLog, Path], None],
    index: int | None,
    reason: str,
    log: GrownLog,
    published: Path,
    held: Path,
    tmp_path: Path,
    aics: Callable[..., dict[str, Any]],
) -> None:
    folder = tmp_path / "published"
    shutil.copytree(published, folder)
    damage(log, folder)
    assert (folder / CHECKPOINT_PATH).exists()
    if index is None:
        report = aics("verify-consistency", "--tiles", folder, "--old-checkpoint", held)
    else:
        report = aics("verify-inclusion", "--tiles", folder, "--index", str(index))
    assert not report["ok"], report
    assert reason in report["error"]
