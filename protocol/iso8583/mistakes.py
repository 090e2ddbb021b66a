"""Reads a TOML table key by key and gathers every mistake, so that a file is put right in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Mistakes:
    """The mistakes of one file, in the order in which they were found; true where there are any."""

    __slots__ = ("_file", "_found", "_origin")

    def __init__(self, file: str, origin: Callable[[str], str] | None = None) -> None:
        """Gather the mistakes of `file`; `origin` says, for a key, that its value was taken over from elsewhere."""
        self._file = file
        self._found: list[str] = []
        self._origin = origin

    def __len__(self) -> int:
        return len(self._found)

    def add(self, key: str, what_is_right: str) -> None:
        """Note that `key` (with its tables, by dots) is wrong, and what would be right."""
        origin = self._origin(key) if self._origin is not None else ""
        self._found.append(f"{self._file}: {key} {what_is_right}{origin}")

    def all(self) -> tuple[str, ...]:
        """Every mistake so far."""
        return tuple(self._found)


class TableReader:
    """Takes known keys out of a table; whatever is left at `finish` is a mistake.

    A getter returns its default for a key that is missing or wrong, so that reading goes on.
    """

    __slots__ = ("_fallback", "_known", "_left", "_mistakes", "_place")

    def __init__(self, mistakes: Mistakes, place: str, table: Mapping[str, Any]) -> None:
        self._mistakes = mistakes
        self._place = place
        self._left = dict(table)
        self._fallback: Mapping[str, Any] = {}
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def mistake(self, key: str, what_is_right: str) -> None:
        """Note a mistake at a key of this table."""
        self._mistakes.add(f"{self._place}.{key}" if self._place else key, what_is_right)

    def require(self, key: str) -> None:
        """Note a mistake if `key` is missing."""
        if key not in self._left:
            self.mistake(key, "is missing")

    def fall_back_on(self, defaults: Mapping[str, Any]) -> None:
        """Look for missing keys in `defaults`, whose own keys were checked elsewhere."""
        self._fallback = defaults

    def take(self, key: str) -> Any:
        """The raw value of a key, None where it is missing."""
        self._known.append(key)
        if key in self._left:
            return self._left.pop(key)
        return self._fallback.get(key)

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.mistake(key, "must be a string")
            return default
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.mistake(key, "must be true or false")
            return default
        return value

    def number(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.mistake(key, f"must be a whole number within {least} and {most}")
            return default
        return value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of some strings."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            self.mistake(key, f"must be one of {', '.join(str(choice) for choice in choices)}")
            return default
        return value

    def table(self, key: str) -> dict[str, Any]:
        """A table, empty where it is missing."""
        value = self.take(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.mistake(key, "must be a table")
            return {}
        return value

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._left:
            self.mistake(key, f"is not known; known are {', '.join(self._known)}")
