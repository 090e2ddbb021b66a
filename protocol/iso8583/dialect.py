"""Dialects: what a make of terminal or a host does its own way, as data.

The form of a dialect file is described in `dialect_file`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from protocol.framing import Framing
from protocol.iso8583.codec import Codec
from protocol.iso8583.dialect_file import Contents, DialectError, read_contents
from protocol.iso8583.fields import FieldSpec
from protocol.iso8583.layout import Layout
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import HostRules, TerminalRules

__all__ = [
    "Dialect",
    "DialectError",
    "dialect_of",
    "layout_of",
    "load_dialect",
    "read_toml",
    "shipped_dialects",
    "shipped_table",
]

_SHIPPED: Final = Path(__file__).parent / "dialects"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of speaking ISO 8583: formats, frames, and the habits of terminals and of the host.

    Attributes:
        tpdu: whether frames begin with a TPDU of five bytes.
        header_bytes: length of the header behind it, 0 for none.
        fields: formats by field number.
    """

    name: str
    framing: Framing
    tpdu: bool
    header_bytes: int
    fields: dict[int, FieldSpec]
    terminal: TerminalRules
    host: HostRules
    codec: Codec

    def carried(self, fields: Fields) -> Fields:
        """The fields that this dialect has at all: what is left of a message that comes from another dialect."""
        if self.codec.writes(tuple(fields)) or fields.keys() <= self.fields.keys():
            return fields
        return {number: value for number, value in fields.items() if number in self.fields}


def shipped_dialects() -> tuple[str, ...]:
    """Names of the dialects that come with the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def load_dialect(name_or_path: str) -> Dialect:
    """Load a shipped dialect by its name, or any dialect by the path of its TOML file.

    What ends in ".toml" or holds a slash is a path, all else a name. A shipped dialect is compiled once.

    Raises:
        DialectError: every mistake of the file at once; also where there is no such dialect.
    """
    if not name_or_path.endswith(".toml") and "/" not in name_or_path and "\\" not in name_or_path:
        return _load_shipped(name_or_path)
    return _load_file(Path(name_or_path))


@lru_cache(maxsize=16)
def _load_shipped(name: str) -> Dialect:
    if name not in shipped_dialects():
        known = ", ".join(shipped_dialects())
        raise DialectError((f"{name}: no such dialect; shipped are {known}, or give the path of a .toml file",))
    return _load_file(_SHIPPED / f"{name}.toml")


def _load_file(path: Path) -> Dialect:
    return dialect_of(str(path), read_toml(path))


_FILE_CHARACTERS_MAX: Final = 262_144
_LINE_CHARACTERS_MAX: Final = 1_000
"""What a line of TOML can cost grows with the square of its length."""


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a dialect file, parsed and not yet checked.

    Raises:
        DialectError: the file cannot be read or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _FILE_CHARACTERS_MAX or max(map(len, text.splitlines()), default=0) > _LINE_CHARACTERS_MAX:
            most = f"{_FILE_CHARACTERS_MAX} characters, {_LINE_CHARACTERS_MAX} a line"
            raise DialectError((f"{path}: is no dialect: longer than {most}",))
        return tomllib.loads(text)
    except OSError as error:
        raise DialectError((f"{path}: cannot be read: {error.strerror}",)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DialectError((f"{path}: not TOML: {error}",)) from error
    except RecursionError as error:
        raise DialectError((f"{path}: not TOML that could be read: nested too deep",)) from error


def dialect_of(file: str, table: Mapping[str, Any]) -> Dialect:
    """The dialect that a parsed table means, its codec compiled.

    Args:
        file: how mistakes name the table.
    Raises:
        DialectError: every mistake at once.
    """
    contents = _contents(file, table)
    return Dialect(
        name=contents.name,
        framing=contents.framing,
        tpdu=contents.tpdu,
        header_bytes=contents.header_bytes,
        fields=contents.fields,
        terminal=contents.terminal,
        host=contents.host,
        codec=Codec(_layout(contents)),
    )


def layout_of(file: str, table: Mapping[str, Any]) -> Layout:
    """The layout alone that a parsed table means: checked as a whole, and nothing is compiled.

    Raises:
        DialectError: every mistake at once.
    """
    return _layout(_contents(file, table))


def _contents(file: str, table: Mapping[str, Any]) -> Contents:
    if "extends" not in table:
        return read_contents(file, table)
    base = table["extends"]
    if base not in shipped_dialects():
        known = ", ".join(shipped_dialects())
        raise DialectError((f"{file}: extends must be the name of a shipped dialect: {known}",))
    return read_contents(file, table, shipped_table(base))


@lru_cache(maxsize=16)
def shipped_table(name: str) -> dict[str, Any]:
    """The table of a shipped dialect; not to be changed."""
    return read_toml(_SHIPPED / f"{name}.toml")


def _layout(contents: Contents) -> Layout:
    return Layout(
        tpdu=contents.tpdu,
        header_bytes=contents.header_bytes,
        mti=contents.mti,
        bitmap=contents.bitmap,
        hex_upper=contents.hex_upper,
        fields=contents.fields,
    )
