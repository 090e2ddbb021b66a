"""The kit's page in a browser without a network: green on a good kit, red and naming the fault on each bad one."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.kit import BROKEN_OFF, export_kit
from gateway.audit.kit_entries import kind_named, shown, state_named
from gateway.audit.kit_head import newest_head
from gateway.audit.proving import prove_entry
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogReader
from protocol.receipt_field import ReceiptField
from protocol.transparency.notes import SignerKey, VerifierKey
from protocol.transparency.tiles import TILE_WIDTH, Tile, build_bundle, split_bundle
from protocol.transparency.tlog_proof import TlogProof
from protocol.transparency.tree import Frontier, leaf_hash
from tests.audit.kit_log import ORIGIN, SIGNER, checkpoint, entries, entry, write_log
from tests.browser.chromium import Chromium

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("browser")]

SEED = 7_150
SIZE = 1_300
BODIES = entries(SIZE)
Verify = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journal")
    return write_log(folder / "journal", create_keyring(folder / "keys"), BODIES)


@pytest.fixture(scope="module")
def exported(journal: Path) -> Path:
    folder = journal.parent / "kit"
    head = newest_head(journal, [SIGNER.verifier])
    with LogReader(journal) as reader:
        export_kit(reader, head, folder)
    return folder


@pytest.fixture
def kit(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "kit"))


@pytest.fixture
def verify(browser: Chromium) -> Verify:
    """Does what a person does: opens the page, chooses the folder, pastes what they kept, and presses the button."""

    def verifying(kit: Path, *, key: str = "", held: str = "") -> dict[str, Any]:
        browser.open(kit / "index.html")
        browser.choose("#folder", kit)
        browser.evaluate(f"element('key').value = {json.dumps(key)}; element('held').value = {json.dumps(held)}")
        browser.evaluate(
            "new Promise(done => { new MutationObserver(() => element('verify').disabled || done())"
            ".observe(element('verify'), { attributes: true }); element('verify').click(); })"
        )
        assert browser.requested == [(kit / "index.html").resolve().as_uri()], "the page asked for something else"
        shown = browser.evaluate("({ look: element('verdict').className, text: element('verdict').textContent })")
        assert shown["look"] in ("good", "bad")
        return {"good": shown["look"] == "good", "text": shown["text"]}

    return verifying


def test_a_good_kit_is_green_with_the_checkpoint_and_key_that_the_auditor_kept(kit: Path, verify: Verify) -> None:
    held = checkpoint(BODIES, 777).decode()
    verdict = verify(kit, key=SIGNER.verifier.text, held=held)
    assert verdict["good"], verdict
    assert f"{SIZE} entries of {ORIGIN}" in verdict["text"]
    assert "Compare it with one" not in verdict["text"]
    assert "Nothing that you kept" not in verdict["text"]


def test_a_good_kit_is_green_with_what_cannot_be_seen_told(kit: Path, verify: Verify) -> None:
    verdict = verify(kit)
    assert verdict["good"], verdict
    assert "The verifier key is the one that came with the kit" in verdict["text"]
    assert "whether its tail was cut cannot be seen" in verdict["text"]


def test_receipts_of_terminals_are_held_against_the_kit(journal: Path, kit: Path, verify: Verify) -> None:
    head = newest_head(journal, [SIGNER.verifier])
    with LogReader(journal) as reader:
        proof = prove_entry(reader, head, 41, BODIES[41]).decode()
        field = ReceiptField.of(41, 300, reader.root(300)).text
    assert verify(kit, held=proof)["good"]
    assert verify(kit, held=f" {field} ")["good"]
    other = TlogProof.parse(proof.encode())
    swapped = TlogProof(other.index, other.path, other.checkpoint, entry(42, amount_minor=1)).encode().decode()
    assert "entry 42 is not the one that the receipt brings" in verify(kit, held=swapped)["text"]
    assert not verify(kit, held=field[:-1] + ("0" if field[-1] != "0" else "1"))["good"]
    later = ReceiptField.of(41, SIZE + 1, bytes(32)).text
    assert "its tail was cut" in verify(kit, held=later)["text"]


def test_a_checkpoint_of_a_key_that_was_not_pasted_is_named_with_what_to_paste(kit: Path, verify: Verify) -> None:
    older = SignerKey(ORIGIN, b"older" + bytes(27))
    held = checkpoint(BODIES, 777, older).decode()
    verdict = verify(kit, key=SIGNER.verifier.text, held=held)
    assert not verdict["good"]
    assert "the checkpoint that you kept is not signed by the key that you trust" in verdict["text"]
    assert "+".join(older.verifier.text.split("+")[:2]) in verdict["text"]
    assert "paste it too, on a line of its own" in verdict["text"]
    assert verify(kit, key=f"{SIGNER.verifier.text}\n{older.verifier.text}\n", held=held)["good"]
    verdict = verify(kit, key=older.verifier.text, held=held)
    assert "the kit's checkpoint is not signed by the key that you trust" in verdict["text"]
    assert "+".join(SIGNER.verifier.text.split("+")[:2]) in verdict["text"]
    stranger = checkpoint(BODIES, 777).decode().replace(ORIGIN, "example.org/other")
    verdict = verify(kit, key=SIGNER.verifier.text, held=stranger)
    assert "the checkpoint that you kept is not signed by the key" in verdict["text"]
    assert "paste it too" not in verdict["text"]


def spoil(path: Path, place: int) -> None:
    octets = bytearray(path.read_bytes())
    octets[place] ^= 1
    path.write_bytes(octets)


def replace_entries(
    kit: Path, number: int, change: Callable[[list[bytes]], object], *, and_hashes: bool = False
) -> None:
    """Change entries of a bundle; with their hashes, as somebody would who knows how tiles are made."""
    path = kit / Tile(None, number, min(TILE_WIDTH, SIZE - number * TILE_WIDTH)).path
    width = min(TILE_WIDTH, SIZE - number * TILE_WIDTH)
    bodies = split_bundle(path.read_bytes(), width)
    change(bodies)
    path.write_bytes(build_bundle(bodies))
    if and_hashes:
        leaves = [leaf_hash(body) for body in bodies]
        (kit / Tile(0, number, width).path).write_bytes(b"".join(leaves))
        upper = kit / Tile(1, 0, SIZE // TILE_WIDTH).path
        if width == TILE_WIDTH:
            root = Frontier().append(leaves)[0].root()
            octets = upper.read_bytes()
            upper.write_bytes(octets[: number * 32] + root + octets[number * 32 + 32 :])


def flipped_entry(kit: Path) -> None:
    spoil(kit / Tile(None, 2).path, 5_000)


def flipped_hash(kit: Path) -> None:
    spoil(kit / Tile(0, 3).path, 32 * 9)


def flipped_upper_hash(kit: Path) -> None:
    spoil(kit / Tile(1, 0, 5).path, 32 * 4)


def flipped_root(kit: Path) -> None:
    spoil(kit / "checkpoint", len(ORIGIN) + 10)


def flipped_signature(kit: Path) -> None:
    note = (kit / "checkpoint").read_bytes()
    spoil(kit / "checkpoint", len(note) - 20)


def swapped_entries(kit: Path) -> None:
    def swap(bodies: list[bytes]) -> None:
        bodies[4], bodies[5] = bodies[5], bodies[4]

    replace_entries(kit, 1, swap, and_hashes=True)


def dropped_entry(kit: Path) -> None:
    replace_entries(kit, 1, lambda bodies: bodies.pop(7))


def edited_entry_with_its_hashes(kit: Path) -> None:
    replace_entries(kit, 1, lambda bodies: bodies.__setitem__(9, entry(266, amount_minor=1)), and_hashes=True)


def missing_file(kit: Path) -> None:
    (kit / Tile(None, 4).path).unlink()


def missing_checkpoint(kit: Path) -> None:
    (kit / "checkpoint").unlink()


def hidden_key_event(kit: Path) -> None:
    (kit / "key-events.json").write_text("[]")


def another_key(kit: Path) -> None:
    (kit / "verifier-key.txt").write_text(SignerKey(ORIGIN, bytes(32)).verifier.text)


def half_exported(kit: Path) -> None:
    (kit / BROKEN_OFF).write_text("half")


FAULTS: dict[Callable[[Path], None], str] = {
    flipped_entry: "entry 543 is not the one that tile/0/002 has the hash of",
    flipped_hash: "entry 778 is not the one that tile/0/003 has the hash of",
    flipped_upper_hash: "tile/1/000.p/5 does not have the hashes of what is below it",
    flipped_root: "the signature of example.org/gateway-7+",
    flipped_signature: "the signature of example.org/gateway-7+",
    swapped_entries: "entry 261: it calls itself entry 262",
    dropped_entry: "tile/entries/001 has not just 256 entries",
    edited_entry_with_its_hashes: "the entries have another root than the one that was signed",
    missing_file: "tile/entries/004 is missing",
    missing_checkpoint: "checkpoint is missing",
    hidden_key_event: "key-events.json does not tell what the entries tell",
    another_key: "the kit's checkpoint is not signed by the key that you trust",
    half_exported: "the folder is not complete",
}


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_a_bad_kit_is_red_and_the_fault_is_named(damage: Callable[[Path], None], kit: Path, verify: Verify) -> None:
    damage(kit)
    verdict = verify(kit)
    assert not verdict["good"], verdict
    assert FAULTS[damage] in verdict["text"]


def resigned(kit: Path, bodies: list[bytes]) -> Path:
    """The kit of another history, signed by the same key: what an operator can do who has it."""
    folder = kit.parent / "history"
    folder.mkdir()
    journal = write_log(folder / "journal", create_keyring(folder / "keys"), bodies)
    head = newest_head(journal, [SIGNER.verifier])
    with LogReader(journal) as reader:
        export_kit(reader, head, folder / "kit")
    return folder / "kit"


def test_a_tail_that_was_cut_and_signed_anew_is_red_with_the_checkpoint_that_was_kept(
    kit: Path, verify: Verify
) -> None:
    cut = resigned(kit, BODIES[:1_000])
    assert verify(cut)["good"], "by itself such a kit is whole: that is why an auditor keeps a head"
    verdict = verify(cut, held=checkpoint(BODIES).decode())
    assert not verdict["good"]
    assert "the log has 1000 entries, and the checkpoint that you kept is of 1300: its tail was cut" in verdict["text"]


def test_a_tail_that_was_rewritten_and_signed_anew_is_red_with_the_checkpoint_that_was_kept(
    kit: Path, verify: Verify
) -> None:
    other = resigned(kit, [*BODIES[:1_298], entry(1_299, amount_minor=1), BODIES[-1], entry(SIZE + 1)])
    assert verify(other)["good"]
    assert verify(other, held=checkpoint(BODIES, 1_298).decode())["good"], "that far nothing was changed"
    verdict = verify(other, held=checkpoint(BODIES).decode())
    assert not verdict["good"]
    assert (
        "the first 1300 entries are not those of the checkpoint that you kept: the log was rewritten"
        in (verdict["text"])
    )


def test_an_entry_is_shown_as_the_gateway_shows_it(kit: Path, browser: Chromium, verify: Verify) -> None:
    assert verify(kit)["good"]
    for number in (1, 500, 777, SIZE):
        browser.evaluate(f"element('number').value = '{number}'; element('look').click()")
        said = browser.evaluate(f"kit.entryAt(files, size, {number})")
        told = shown(BODIES[number - 1])
        assert said == {
            **{name: getattr(told, name) for name in told.__struct_fields__ if name != "parts"},
            "parts": [{name: getattr(part, name) for name in part.__struct_fields__} for part in told.parts],
        }


def test_the_page_names_kinds_and_states_as_the_gateway_does(exported: Path, browser: Chromium) -> None:
    browser.open(exported / "index.html")
    assert browser.evaluate("kit.KINDS") == ["", *(kind_named(kind) for kind in EntryKind)]
    assert browser.evaluate("kit.STATES") == ["", *(state_named(state) for state in State)]


def test_the_page_hashes_as_others_do(exported: Path, browser: Chromium) -> None:
    chosen = random.Random(SEED)
    octets = [chosen.randbytes(size) for size in (*range(260), 1_023, 1_024, 65_535)]
    browser.open(exported / "index.html")
    for name in ("sha256", "sha512"):
        found = browser.evaluate(
            f"{json.dumps([each.hex() for each in octets])}.map(each => "
            f"kit.hex(kit.{name}(Uint8Array.from(each.match(/../g) ?? [], pair => parseInt(pair, 16)))))"
        )
        assert found == [hashlib.new(name, each).hexdigest() for each in octets], f"seed {SEED}"


def test_the_page_verifies_signatures_with_and_without_the_browsers_help(exported: Path, browser: Chromium) -> None:
    """RFC 8032's vectors and others; each changed in each part, and with an s too large by the group's order."""
    chosen = random.Random(SEED)
    order = 2**252 + 27742317777372353535851937790883648493
    cases: list[tuple[bytes, bytes, bytes, bool]] = []
    seeds = [
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"),
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"),
        *(chosen.randbytes(32) for _ in range(4)),
    ]
    for number, seed in enumerate(seeds):
        private = Ed25519PrivateKey.from_private_bytes(seed)
        public, message = private.public_key().public_bytes_raw(), chosen.randbytes(number)
        signature = private.sign(message)
        large = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
        cases += [
            (public, signature, message, True),
            (public, signature, message + b"\0", False),
            (public, bytes([signature[0] ^ 1]) + signature[1:], message, False),
            (public, signature[:40] + bytes([signature[40] ^ 1]) + signature[41:], message, False),
            (public, signature[:32] + large, message, False),
            (public, signature[:63], message, False),
            (bytes([public[0] ^ 1]) + public[1:], signature, message, False),
        ]
    written = json.dumps([[part.hex() for part in case[:3]] for case in cases])
    octets = "each => Uint8Array.from(each.match(/../g) ?? [], pair => parseInt(pair, 16))"
    browser.open(exported / "index.html")
    own = browser.evaluate(f"{written}.map(parts => kit.ed25519(...parts.map({octets})))")
    helped = browser.evaluate(
        "Promise.all("
        f"{written}.map(async parts => {{ const [key, signature, message] = parts.map({octets}); "
        "const known = await crypto.subtle.importKey('raw', key, { name: 'Ed25519' }, false, ['verify']);"
        "return crypto.subtle.verify({ name: 'Ed25519' }, known, signature, message); }))"
    )
    expected = [case[3] for case in cases]
    assert own == expected, f"seed {SEED}"
    assert helped == expected, f"seed {SEED}"


def test_key_events_are_shown_in_words(exported: Path, browser: Chromium, verify: Verify) -> None:
    assert verify(exported)["good"]
    told = browser.evaluate("[...element('events').rows].map(row => [...row.cells].map(cell => cell.textContent))")
    assert [cells[1:] for cells in told] == [
        ["entry 500", "key 1 activated by Zoë: yearly “rotation”"],
        ["entry 1000", "key 2 activated by Zoë: yearly “rotation”"],
    ]
    detail = {"number": 2, "what": "rotated", "who": "Anna", "why": "yearly", "was": 5,
              "keys": [{"key": 6, "purpose": "log-signing", "public": "AA=="}]}  # fmt: skip
    said = browser.evaluate(f"kit.inWords({json.dumps(json.dumps(detail))})")
    assert said == "rotated by Anna: yearly, after key 5\nkey 6 purpose log-signing public AA=="


def test_a_key_that_is_nobodys_is_not_taken(kit: Path, verify: Verify) -> None:
    """For a point of small order anybody can sign: R of small order and s = 0 satisfy the equation now and then."""
    small = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    honest = SIGNER.verifier
    forged = object.__new__(VerifierKey)
    object.__setattr__(forged, "name", honest.name)
    object.__setattr__(forged, "public", small)
    verdict = verify(kit, key=forged.text)
    assert not verdict["good"]
    assert "anybody could sign for it" in verdict["text"]


def test_the_page_stays_off_the_network_by_its_own_policy(exported: Path, browser: Chromium) -> None:
    page = (exported / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    browser.open(exported / "index.html")
    tried = browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'went out', error => String(error))")
    assert tried.startswith("TypeError")
    assert browser.evaluate("isSecureContext && typeof crypto.subtle.verify") == "function"
