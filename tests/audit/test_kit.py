"""The auditor's kit: all of the log and nothing else, whole or marked as broken off, and never of a damaged journal."""

from __future__ import annotations

import json
import tomllib
import tracemalloc
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.audit.kit import BROKEN_OFF, KitError, export_kit
from gateway.audit.kit_entries import shown
from gateway.audit.kit_head import HeadError, newest_head, signed_head, verified_head, verifier_keys_of
from gateway.audit.kit_reading import Kit
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.log_reader import LogReader
from protocol.transparency.notes import SignerKey
from protocol.transparency.tiles import TILE_WIDTH, build_bundle, build_tile, tiles_of
from protocol.transparency.tree import leaf_hash
from tests.audit.kit_log import (
    CIPHERTEXT,
    KEY_EVENT_EVERY,
    ORIGIN,
    SIGNER,
    checkpoint,
    entries,
    entry,
    execute,
    write_log,
)

KEYS = [SIGNER.verifier]
PAPERS = {
    "README.txt", "checkpoint", "index.html", "key-events.json", "key-events.txt", "verifier-key.txt", "verify.go",
}  # fmt: skip


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return create_keyring(tmp_path_factory.mktemp("keys") / "keys")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def export(journal: Path, folder: Path) -> None:
    head = newest_head(journal, KEYS)
    with LogReader(journal) as reader:
        export_kit(reader, head, folder)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 600, 66_000])
def test_a_kit_has_the_tiles_and_entries_of_the_log_and_the_papers_and_nothing_else(
    size: int, keyring: Keyring, tmp_path: Path
) -> None:
    bodies = entries(size)
    journal = write_log(tmp_path / "journal", keyring, bodies)
    export(journal, tmp_path / "kit")
    with LogReader(journal) as reader:
        expected = {
            tile.path: build_bundle(bodies[tile.index * TILE_WIDTH :][: tile.width])
            if tile.level is None
            else build_tile(tile, reader.hashes)
            for tile in tiles_of(size)
        }
    found = files_of(tmp_path / "kit")
    assert {path for path in found if not path.startswith("tile/")} == PAPERS
    assert {path: content for path, content in found.items() if path.startswith("tile/")} == expected
    assert found["checkpoint"] == (tmp_path / "journal-checkpoint").read_bytes()
    assert found["verifier-key.txt"].decode() == SIGNER.verifier.text + "\n"


def test_a_kit_is_read_back_entry_by_entry_and_every_hash_leads_to_the_signed_root(
    keyring: Keyring, tmp_path: Path
) -> None:
    bodies = entries(1_300)
    export(write_log(tmp_path / "journal", keyring, bodies, signed=1_290), tmp_path / "kit")
    kit = Kit(tmp_path / "kit")
    assert [kit.body(index) for index in range(kit.size)] == bodies[:1_290]
    assert [kit.hashes(0, index) for index in range(kit.size)] == [leaf_hash(body) for body in bodies[:1_290]]
    with pytest.raises(KitError, match="no entry 1291"):
        kit.body(1_290)


def test_entries_that_are_not_signed_yet_are_left_out_and_counted(keyring: Keyring, tmp_path: Path) -> None:
    journal = write_log(tmp_path / "journal", keyring, entries(300), signed=290)
    head = newest_head(journal, KEYS)
    with LogReader(journal) as reader:
        summary = export_kit(reader, head, tmp_path / "kit")
    assert (summary.size, summary.not_signed_yet) == (290, 10)
    found = files_of(tmp_path / "kit")
    assert (summary.files, summary.bytes) == (len(found), sum(map(len, found.values())))
    assert summary.page_sha256 == sha256(found["index.html"]).hexdigest()
    assert summary.page_sha256.encode() in found["README.txt"]


def test_key_events_are_told_in_words_and_as_json_as_the_entries_tell_them(keyring: Keyring, tmp_path: Path) -> None:
    export(write_log(tmp_path / "journal", keyring, entries(1_200)), tmp_path / "kit")
    told = json.loads((tmp_path / "kit" / "key-events.json").read_text(encoding="utf-8"))
    expected = [shown(entry(sequence)) for sequence in (KEY_EVENT_EVERY, 2 * KEY_EVENT_EVERY)]
    assert told == [{"index": each.index, "time": each.time, "detail": each.detail} for each in expected]
    text = (tmp_path / "kit" / "key-events.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split()[2] for line in text] == ["500", "1000"]
    assert text[1].endswith(expected[1].detail)


def test_a_kit_has_no_ciphertext_and_nothing_of_the_keys(keyring: Keyring, tmp_path: Path) -> None:
    export(write_log(tmp_path / "journal", keyring, entries(600)), tmp_path / "kit")
    whole = b"".join(files_of(tmp_path / "kit").values())
    assert entry(3) in whole
    for secret in (CIPHERTEXT, SIGNER.seed, *keyring.keys.values()):
        assert secret not in whole
        assert secret.hex().encode() not in whole


def test_a_folder_with_something_in_it_is_never_written_to(keyring: Keyring, tmp_path: Path) -> None:
    journal = write_log(tmp_path / "journal", keyring, entries(10))
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine").write_text("mine")
    with pytest.raises(KitError, match="has something in it"):
        export(journal, tmp_path / "kit")
    assert files_of(tmp_path / "kit") == {"mine": b"mine"}
    (tmp_path / "kit" / "mine").unlink()
    export(journal, tmp_path / "kit")
    assert set(files_of(tmp_path / "kit")) >= PAPERS


def test_an_export_that_is_broken_off_says_so_and_nobody_takes_it_for_a_kit(keyring: Keyring, tmp_path: Path) -> None:
    journal = write_log(tmp_path / "journal", keyring, entries(9_000))

    def tell(what: str, part: float) -> None:
        if part > 0.4:
            raise KeyboardInterrupt

    head = newest_head(journal, KEYS)
    with LogReader(journal) as reader, pytest.raises(KeyboardInterrupt):
        export_kit(reader, head, tmp_path / "kit", tell)
    left = files_of(tmp_path / "kit")
    assert BROKEN_OFF in left
    assert "checkpoint" not in left
    with pytest.raises(KitError, match="broken off"):
        Kit(tmp_path / "kit")
    with pytest.raises(KitError, match="broken off: remove it"):
        export(journal, tmp_path / "kit")


def test_no_kit_is_made_of_a_journal_that_is_not_what_was_signed(keyring: Keyring, tmp_path: Path) -> None:
    def refused(number: int, match: str, sql: str, *values: object) -> None:
        journal = write_log(tmp_path / f"journal-{number}", keyring, entries(700), signed=690)
        execute(journal, sql, *values)
        with pytest.raises(Exception, match=match):
            export(journal, tmp_path / f"kit-{number}")
        assert not (tmp_path / f"kit-{number}" / "checkpoint").exists()

    other = entry(601, amount_minor=1)
    refused(1, "entry 601 is not the one", "UPDATE entry SET body = ? WHERE sequence = 601", other)
    refused(
        2,
        "do not have the root that was signed",
        "UPDATE entry SET body = ?, leaf = ? WHERE sequence = 501",
        entry(501, amount_minor=1),
        leaf_hash(entry(501, amount_minor=1)),
    )
    refused(
        3,
        "are not those that were signed",
        "UPDATE entry SET body = ?, leaf = ? WHERE sequence = 690",
        other,
        bytes(32),
    )
    refused(4, "its tail is cut", "DELETE FROM entry WHERE sequence > 689")
    refused(5, "entry 300 is missing", "DELETE FROM entry WHERE sequence = 300")


def test_a_checkpoint_is_believed_by_the_named_key_alone(keyring: Keyring, tmp_path: Path) -> None:
    journal = write_log(tmp_path / "journal", keyring, entries(10))
    other = SignerKey(ORIGIN, bytes(32))
    with pytest.raises(HeadError, match="no known key"):
        newest_head(journal, [other.verifier])
    both = verified_head(checkpoint(entries(10), None, SIGNER, other), [other.verifier, SIGNER.verifier])
    assert both.keys == (other.verifier, SIGNER.verifier)
    (tmp_path / "journal-checkpoint").unlink()
    with pytest.raises(HeadError, match="has been signed yet"):
        newest_head(journal, KEYS)


def test_a_head_that_is_signed_offline_continues_the_one_before_or_is_not_signed(
    keyring: Keyring, tmp_path: Path
) -> None:
    journal = write_log(tmp_path / "journal", keyring, entries(400), signed=300)
    with LogReader(journal) as reader:
        assert signed_head(reader, [SIGNER]).checkpoint.size == 400
    longer = checkpoint([*entries(400), entry(401)])
    (tmp_path / "journal-checkpoint").write_bytes(longer)
    with LogReader(journal) as reader, pytest.raises(HeadError, match="its tail is cut"):
        signed_head(reader, [SIGNER])
    (tmp_path / "journal-checkpoint").write_bytes(checkpoint([*entries(299), entry(301)]))
    with LogReader(journal) as reader, pytest.raises(HeadError, match="are not those that were signed"):
        signed_head(reader, [SIGNER])


def test_a_key_is_named_itself_or_by_a_file_with_remarks(tmp_path: Path) -> None:
    file = tmp_path / "key.txt"
    file.write_text(f"# of gateway 7\n\n{SIGNER.verifier.text}\n")
    assert verifier_keys_of(str(file)) == verifier_keys_of(SIGNER.verifier.text) == (SIGNER.verifier,)
    for wrong in ("nothing", str(tmp_path / "none"), SIGNER.verifier.text[:-4] + "AAA=", str(tmp_path)):
        with pytest.raises(HeadError):
            verifier_keys_of(wrong)


def test_memory_does_not_grow_with_the_log(keyring: Keyring, tmp_path: Path) -> None:
    peaks = []
    for size in (20_000, 40_000):
        journal = write_log(tmp_path / f"journal-{size}", keyring, entries(size))
        head = newest_head(journal, KEYS)
        with LogReader(journal) as reader:
            tracemalloc.start()
            export_kit(reader, head, tmp_path / f"kit-{size}")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.3 + 200_000, peaks


def test_what_every_kit_holds_is_packaged() -> None:
    root = Path(__file__).parents[2]
    said = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = said["tool"]["setuptools"]["package-data"]["gateway"]
    for path in (root / "gateway" / "audit" / "page").iterdir():
        assert any(fnmatch(str(path.relative_to(root / "gateway")), each) for each in patterns), path
