"""The auditor's kit: one folder with all that is needed to verify a journal without a network, a key or this gateway.

    README.txt         what this is, and how two programs that are not ours verify it
    index.html         verifies the folder in a browser, from the file itself; the same file in every kit of a release
    verify.go          a few lines around Go's own golang.org/x/mod/sumdb
    checkpoint         the signed head, byte for byte as the gateway signed it
    verifier-key.txt   the key that it is believed by, for convenience: a careful auditor has it from elsewhere
    key-events.txt     what became of keys, by whom and why; taken out of the entries
    key-events.json    the same, to be compared with the entries by the page
    tile/...           the tree and its entries, c2sp.org/tlog-tiles

All of it is public between the operator and the auditor: entries hold commitments, no card data and no ciphertext.

While it is being written the folder holds `BROKEN-OFF.txt`, which says so and goes last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib import resources
from itertools import islice
from pathlib import Path
from string import Template
from typing import Final

import msgspec

from gateway.audit.kit_entries import time_of
from gateway.audit.kit_head import HeadError, SignedHead, refuse_not_continued
from gateway.audit.kit_sync import sync_below
from gateway.core.lifecycle import EntryKind
from gateway.journal.keyring import KeyEvent as KeyringEvent
from gateway.journal.log_reader import LogReader
from protocol.journal_entry import EntryError, decode_entry
from protocol.transparency.text import encode_base64
from protocol.transparency.tiles import CHECKPOINT_PATH, TILE_HEIGHT, TILE_WIDTH, Tile, build_bundle
from protocol.transparency.tree import Frontier, leaf_hash

BROKEN_OFF: Final = "BROKEN-OFF.txt"
VERIFIER_KEY: Final = "verifier-key.txt"
KEY_EVENTS: Final = "key-events.json"
KEY_EVENTS_TEXT: Final = "key-events.txt"
PAGE: Final = "index.html"
GO_PROGRAM: Final = "verify.go"
README: Final = "README.txt"

_WARNING: Final = (
    "This folder is not complete: the export that wrote it is still running, or was broken off.\n"
    "Verify nothing in it. Remove it, and export again into a new folder.\n"
)
_KIND_AT: Final = 1
_TELL_EVERY: Final = 16

Tell = Callable[[str, float], None]
"""Takes what is being done, and to what part, from 0 to 1."""


class KitError(Exception):
    """No kit can be written, or the folder is none; the message says why."""


class KeyEvent(msgspec.Struct, frozen=True):
    """What became of a key, as its entry tells it. `time` is UTC."""

    index: int
    time: str
    detail: str


class KitSummary(msgspec.Struct, frozen=True):
    """What an export wrote.

    Attributes:
        size: entries of the log, which are all in the kit.
        not_signed_yet: entries of the journal that the checkpoint does not cover, and that are not in the kit.
        root: base64.
        page_sha256: of index.html, hexadecimal.
    """

    folder: str
    origin: str
    size: int
    not_signed_yet: int
    root: str
    verifier_keys: list[str]
    key_events: int
    files: int
    bytes: int
    page_sha256: str


def export_kit(reader: LogReader, head: SignedHead, folder: Path, tell: Tell = lambda _what, _part: None) -> KitSummary:
    """Write the kit of a journal, up to a signed head. Every entry is hashed, and the root compared, on the way.

    Args:
        folder: made where it is not there; never one with something in it.
    Raises:
        KitError: the folder has something in it or cannot be written, or the journal is not what was signed.
        JournalError: the journal cannot be read.
    Cancellation: an interrupt leaves a folder that says that it is not complete.
    """
    try:
        refuse_not_continued(reader, head.checkpoint)
    except HeadError as error:
        raise KitError(str(error)) from None
    _refuse_filled(folder)
    try:
        writer = _Writer(folder)
        writer.put(BROKEN_OFF, _WARNING.encode())
        events = writer.put_log(reader, head.checkpoint.size, head.checkpoint.root, tell)
        reader.check_unchanged()
        page_digest = writer.put_papers(head, events)
        sync_below(folder)  # a stick is pulled out soon: nothing may be missing once the warning is gone
        (folder / BROKEN_OFF).unlink()
    except OSError as error:
        raise KitError(f"{folder} cannot be written: {error.strerror or error}") from error
    return KitSummary(
        folder=str(folder),
        origin=head.checkpoint.origin,
        size=head.checkpoint.size,
        not_signed_yet=reader.size - head.checkpoint.size,
        root=encode_base64(head.checkpoint.root),
        verifier_keys=[key.text for key in head.keys],
        key_events=len(events),
        files=writer.files - 1,
        bytes=writer.bytes - len(_WARNING),
        page_sha256=page_digest,
    )


def page_asset(name: str) -> bytes:
    """A file of the kit that is the same in every kit."""
    return resources.files("gateway.audit").joinpath("page", name).read_bytes()


def _refuse_filled(folder: Path) -> None:
    try:
        inside = next(iter(folder.iterdir()), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KitError(f"{folder} cannot be used: {error.strerror}") from None
    if (folder / BROKEN_OFF).exists():
        raise KitError(f"{folder} holds an export that was broken off: remove it, or name another folder")
    if inside is not None:
        raise KitError(f"{folder} has something in it: name a new or an empty folder; nothing is ever overwritten")


class _Writer:
    """Writes a kit's files, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[Path] = set()
        self.files = 0
        self.bytes = 0

    def put(self, path: str, content: bytes) -> None:
        """Write one file, which must not be there."""
        target = self._folder / path
        if target.parent not in self._made:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(target.parent)
        with target.open("xb") as file:
            file.write(content)
        self.files += 1
        self.bytes += len(content)

    def put_log(self, reader: LogReader, size: int, root: bytes, tell: Tell) -> list[KeyEvent]:
        """Write bundles and tiles; returns the key events that were met. At most 256 entries are held at a time.

        Raises:
            KitError: an entry is not the one that its leaf is of, or the root is not the signed one.
        """
        frontier = Frontier()
        rows: list[list[bytes]] = []  # of each tile level, the hashes of the tile that is not full yet
        events: list[KeyEvent] = []
        for number, portion in enumerate(_portions(reader, size)):
            leaves: list[bytes] = []
            for body, leaf in portion:
                if leaf_hash(body) != leaf:
                    raise KitError(_changed(frontier.size + len(leaves) + 1))
                if body[_KIND_AT : _KIND_AT + 1] == bytes([EntryKind.KEY]):
                    events.append(_event(body, frontier.size + len(leaves)))
                leaves.append(leaf)
            frontier, levels = frontier.append(leaves)
            self.put(Tile(None, number, len(leaves)).path, build_bundle([body for body, _ in portion]))
            self._put_rows(rows, levels, frontier.size)
            if number % _TELL_EVERY == 0:
                tell("writing entries", frontier.size / size)
        for level, row in enumerate(rows):
            if row:
                count = frontier.size >> level * TILE_HEIGHT
                self.put(Tile(level, count // TILE_WIDTH, len(row)).path, b"".join(row))
        if frontier.root() != root:
            raise KitError(f"the first {size} entries of {reader.path} do not have the root that was signed")
        return events

    def _put_rows(self, rows: list[list[bytes]], levels: list[list[bytes]], size: int) -> None:
        """Take in the hashes that are new, and write the tiles that they fill."""
        for level, fresh in enumerate(levels[::TILE_HEIGHT]):
            if level == len(rows):
                rows.append([])
            rows[level] += fresh
            if len(rows[level]) == TILE_WIDTH:
                self.put(Tile(level, (size >> (level + 1) * TILE_HEIGHT) - 1).path, b"".join(rows[level]))
                rows[level] = []

    def put_papers(self, head: SignedHead, events: list[KeyEvent]) -> str:
        """Write all that is not the log; the checkpoint last. Returns the page's SHA-256."""
        page = page_asset(PAGE)
        digest = sha256(page).hexdigest()
        self.put(PAGE, page)
        self.put(GO_PROGRAM, page_asset(GO_PROGRAM))
        self.put(VERIFIER_KEY, "".join(key.text + "\n" for key in head.keys).encode())
        self.put(KEY_EVENTS, msgspec.json.format(msgspec.json.encode(events), indent=1) + b"\n")
        self.put(KEY_EVENTS_TEXT, _events_text(events).encode())
        self.put(README, _readme(head, digest).encode())
        self.put(CHECKPOINT_PATH, head.note)
        return digest


def _portions(reader: LogReader, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
    entries = ((each.body, each.leaf) for each in reader.entries(0, size))
    while portion := list(islice(entries, TILE_WIDTH)):
        yield portion


def _event(body: bytes, index: int) -> KeyEvent:
    try:
        entry = decode_entry(body)
        return KeyEvent(index, time_of(entry), entry.detail)
    except EntryError as error:
        raise KitError(f"entry {index + 1} cannot be read: {error}") from None


def _changed(sequence: int) -> str:
    return (
        f"entry {sequence} is not the one that was hashed into the log: holdfast audit verify says what is damaged; "
        "no kit is made of a journal that is"
    )


def _events_text(events: list[KeyEvent]) -> str:
    if not events:
        return "This log tells of no key.\n"
    return "".join(f"{each.time}  entry {each.index + 1:>10}  {_in_words(each.detail)}\n" for each in events)


def _in_words(detail: str) -> str:
    """A key event as people read it; the detail as it is where it is not of the form that this release writes."""
    try:
        event = msgspec.json.decode(detail, type=KeyringEvent)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return detail
    keys = [" ".join(f"{name} {value}" for name, value in each.items()) for each in event.keys]
    after = f", after key {event.was}" if event.was else ""
    facts = "".join(f"; {name} {value}" for name, value in event.facts.items())
    return f"{event.what} by {event.who}: {event.why}{after}{facts}" + "".join(f"\n{'':44}{each}" for each in keys)


def _readme(head: SignedHead, page_digest: str) -> str:
    checkpoint = head.checkpoint
    return Template(page_asset("README.txt").decode()).substitute(
        origin=checkpoint.origin,
        size=checkpoint.size,
        last=max(checkpoint.size - 1, 0),
        root=encode_base64(checkpoint.root),
        keys="\n".join("    " + key.text for key in head.keys),
        page=page_digest,
        go=sha256(page_asset(GO_PROGRAM)).hexdigest(),
    )
