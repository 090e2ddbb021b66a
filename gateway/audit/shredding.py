"""Looks for canaries in the raw bytes of files: is the card data gone that must be gone?

Raw bytes are what a thief or a laboratory has: rows that were deleted, pages that are free, the remains of a log. So a
database is read as any other file. Archives (gzip, bzip2, xz, zip, tar, one within another) are opened as well.

How it is fast: each form of a canary has a run of seven bytes, and wherever that lies in a file, one of its four
places for a whole word of four bytes falls on a multiple of four. So a file is read as words, each word is looked up
in one set, and only where that hits the forms are compared. The time does not depend on the number of canaries.

A file that a program writes meanwhile is read as it is at that moment, piece by piece. Nothing is locked. Must not be
called in a process that has one of the files open through SQLite: closing a descriptor drops SQLite's locks.

What cannot be seen this way: a value longer than 4,061 bytes lies in a database on several pages, and one canary that
happens to lie across the end of a page is cut in two.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, cast

from gateway.audit.canaries import Canary, Form

CHUNK_BYTES: Final = 1 << 20
NESTED_MAX: Final = 4
"""Archives within archives are opened to this depth; what lies deeper is told as not searched."""

FINDINGS_MAX: Final = 1000
"""So many findings are kept of one search; the rest is counted."""

_WORD: Final = 4
_RUN: Final = 2 * _WORD - 1
_WORDS_AT_ONCE: Final = 1024
_TAR_MAGIC_AT: Final = 257
_PEEK_BYTES: Final = 512
_UNREADABLE: Final = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip's compression that Python does not have
    RuntimeError,  # a zip's member has a password
    UnicodeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a canary was found.

    Attributes:
        canary: its number.
        characters: its length.
        encoding: name of the form.
        file: the path; a canary within it is shown as its number.
        member: path within the archive, empty for the file itself.
        offset: of the first byte, from 0; -1 where it stands in the name.
    """

    canary: int
    characters: int
    encoding: str
    file: str
    member: str
    offset: int


@dataclass(slots=True)
class Searched:
    """What a search came to.

    Attributes:
        files, members: files read, and members of archives among them.
        searched_bytes: looked through, what archives hold included.
        found: places, the first `FINDINGS_MAX`.
        found_count: all of them.
        not_searched: what could not be read, and why.
    """

    files: int = 0
    members: int = 0
    searched_bytes: int = 0
    found: list[Place] = field(default_factory=list)
    found_count: int = 0
    not_searched: list[tuple[str, str]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether everything was searched, and nothing found."""
        return not self.found_count and not self.not_searched


class Seeker:
    """Finds the forms of canaries in streams of bytes. Holds no more than a chunk and the longest form."""

    def __init__(self, canaries: Sequence[Canary]) -> None:
        self._characters = {canary.number: canary.characters for canary in canaries}
        self._by_word: dict[int, list[tuple[Form, int]]] = {}
        self._short: list[Form] = []
        longest = 1
        for form in (form for canary in canaries for form in canary.forms):
            longest = max(longest, form.size_bytes)
            if len(form.core) < _RUN:
                self._short.append(form)
                continue
            start = _most_telling(form.core)
            for at in range(start, start + _WORD):
                word = int.from_bytes(form.core[at : at + _WORD], sys.byteorder)
                self._by_word.setdefault(word, []).append((form, at))
        self._words = frozenset(self._by_word)
        self._margin = -(-(longest + 1) // _WORD) * _WORD

    def characters(self, canary: int) -> int:
        """Length of a canary."""
        return self._characters[canary]

    def seek(self, stream: BinaryIO, read: Callable[[int], None] = lambda _: None) -> Iterator[tuple[Form, int]]:
        """Each place of each form: the form, and the offset of its first byte.

        Args:
            read: told how many bytes have just been read.
        Raises:
            OSError, and what a decompressor raises.
        """
        kept = b""
        at = 0  # offset of `kept` in the stream, a multiple of the word
        known = 0  # words and cores that begin before this offset have been looked at
        ended = False
        while not ended:
            chunk = _read_full(stream, CHUNK_BYTES)
            read(len(chunk))
            ended = len(chunk) < CHUNK_BYTES
            content = kept + chunk
            # What begins within the last margin may go on in the next chunk, and waits for it.
            until = len(content) if ended else len(content) - self._margin
            yield from ((form, at + begin) for form, begin in self._within(content, known - at, until))
            known = at + until
            keep_from = max(0, until - self._margin)
            at += keep_from
            kept = content[keep_from:]

    def within(self, content: bytes) -> list[tuple[Form, int]]:
        """The same in a short piece of bytes, such as a name."""
        return list(self._within(content, 0, len(content)))

    def _within(self, content: bytes, begin: int, until: int) -> Iterator[tuple[Form, int]]:
        """What has its word, or its core, at `begin` or later and before `until`, in bytes that hold it whole."""
        end = len(content)
        padded = content + bytes(-end % _WORD)
        words = memoryview(padded).cast("I")
        last = -(-until // _WORD)
        for first in range(begin // _WORD, last, _WORDS_AT_ONCE):
            block = words[first : min(first + _WORDS_AT_ONCE, last)]
            if self._words.isdisjoint(block):
                continue
            for place, word in enumerate(block, start=first):
                for form, offset in self._by_word.get(word, ()):
                    core_at = place * _WORD - offset
                    if form.stands_at(content, core_at, end):
                        yield form, core_at - form.before_bytes
        for form in self._short:
            core_at = content.find(form.core, begin)
            while 0 <= core_at < until:
                if form.stands_at(content, core_at, end):
                    yield form, core_at - form.before_bytes
                core_at = content.find(form.core, core_at + 1)


def _most_telling(core: bytes) -> int:
    """Where the seven bytes begin that are least like what stands everywhere: each of its words has different bytes."""
    distinct = [len(set(core[at : at + _WORD])) for at in range(len(core) - _WORD + 1)]
    return max(range(len(core) - _RUN + 1), key=lambda start: min(distinct[start : start + _WORD]))


def _read_full(stream: BinaryIO, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def files_under(paths: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Each regular file at or below the paths, once, and its size in bytes. Links are followed only if named.

    Raises:
        OSError: a path that was named is not there, or a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise error

    for path in paths:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            below: Iterator[Path] = (
                Path(folder, name) for folder, _, names in os.walk(path, onerror=refuse) for name in sorted(names)
            )
        else:
            below = iter([path])
        for each in below:
            told = each.stat() if each == path else each.lstat()
            if stat.S_ISREG(told.st_mode) and (told.st_dev, told.st_ino) not in seen:
                seen.add((told.st_dev, told.st_ino))
                yield each, told.st_size


class Search:
    """One search through files; `run` may be called for several."""

    def __init__(
        self, canaries: Sequence[Canary], told: Callable[[str, float], None] = lambda _what, _part: None
    ) -> None:
        self._seeker = Seeker(canaries)
        self._told = told
        self._done_bytes = 0
        self._total_bytes = 0
        self.result = Searched()

    def run(self, files: Sequence[tuple[Path, int]]) -> Searched:
        """Look through all of the files. One that cannot be read is told, and the search goes on."""
        self._total_bytes += sum(size for _, size in files)
        for path, size in files:
            before = self._done_bytes
            self._file(path)
            self._done_bytes = before + size
        return self.result

    def _file(self, path: Path) -> None:
        self._name(path, "", os.fsencode(path))
        try:
            with path.open("rb") as stream:
                self._stream(stream, path, "", counts=True)
                self.result.files += 1
                stream.seek(0)
                self._archive(stream, path, "", 1)
        except _UNREADABLE as error:
            self._missed(path, "", error)

    def _name(self, path: Path, member: str, name: bytes) -> None:
        for form, _ in self._seeker.within(name):
            self._found(form, path, member, -1)

    def _stream(self, stream: BinaryIO, path: Path, member: str, *, counts: bool) -> None:
        def read(size: int) -> None:
            self.result.searched_bytes += size
            if counts:
                self._done_bytes += size
            self._told("searching", min(1.0, self._done_bytes / max(1, self._total_bytes)))

        for form, offset in self._seeker.seek(stream, read):
            self._found(form, path, member, offset)

    def _archive(self, stream: BinaryIO, path: Path, member: str, depth: int) -> None:
        """Look through what the stream holds, if it is an archive. It is at its beginning."""
        magic = stream.read(_PEEK_BYTES)
        stream.seek(0)
        plain = magic[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar"
        members = _tarred(stream) if plain else _packed(stream, magic)
        if members is None:
            return
        if depth > NESTED_MAX:
            self._missed(path, member, f"an archive within more than {NESTED_MAX - 1} others")
            return
        for name, opened in members:
            inside = f"{member}/{name}" if member else name
            self._name(path, inside, name.encode(errors="surrogateescape"))
            try:
                with opened() as inner:
                    if not plain:  # what lies plainly in the archive was looked through with it
                        self._stream(inner, path, inside, counts=False)
                        inner.seek(0)
                    self.result.members += 1
                    self._archive(inner, path, inside, depth + 1)
            except _UNREADABLE as error:
                self._missed(path, inside, error)

    def _found(self, form: Form, path: Path, member: str, offset: int) -> None:
        self.result.found_count += 1
        if len(self.result.found) < FINDINGS_MAX:
            characters = self._seeker.characters(form.canary)
            place = Place(form.canary, characters, form.name, self._shown(str(path)), self._shown(member), offset)
            self.result.found.append(place)

    def _missed(self, path: Path, member: str, why: Exception | str) -> None:
        reason = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
        where = f"{path}: {member}" if member else str(path)
        self.result.not_searched.append((self._shown(where), self._shown(reason)))

    def _shown(self, name: str) -> str:
        """A name without the canaries in it."""
        content = os.fsencode(name)
        for form, begin in sorted(self._seeker.within(content), key=lambda found: found[1], reverse=True):
            content = content[:begin] + b"<canary %d>" % form.canary + content[begin + form.size_bytes :]
        return content.decode(errors="replace")


_Members = Iterator[tuple[str, Callable[[], BinaryIO]]]


def _packed(stream: BinaryIO, magic: bytes) -> _Members | None:
    """What is packed in the stream, each to be opened before the next is asked for; None where it is no archive."""
    if magic.startswith(b"\x1f\x8b"):
        return iter([("(unpacked)", lambda: cast("BinaryIO", gzip.GzipFile(fileobj=stream, mode="rb")))])
    if magic.startswith(b"BZh"):
        return iter([("(unpacked)", lambda: cast("BinaryIO", bz2.BZ2File(stream)))])
    if magic.startswith(b"\xfd7zXZ\x00"):
        return iter([("(unpacked)", lambda: cast("BinaryIO", lzma.LZMAFile(stream)))])
    if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(stream)
    return None


def _zipped(stream: BinaryIO) -> _Members:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, partial(_opened, archive, member)


def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    return cast("BinaryIO", archive.open(member))


def _tarred(stream: BinaryIO) -> _Members:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            if member.isreg():
                yield member.name, partial(_extracted, archive, member)


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    content = archive.extractfile(member)
    if content is None:
        raise tarfile.TarError("a member without contents")
    return cast("BinaryIO", content)
