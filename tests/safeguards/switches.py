"""Ways of taking something away for good; each is used in a forked process that ends after one check.

Nothing here is put back. A switch whose target has gone raises, so that a safeguard which has moved is not reported as
noticed by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Final

from gateway.journal.connections import GatheringConnection

UNLIMITED: Final = 1 << 40

Switch = Callable[[], None]


def replaced(target: Any, name: str, stand_in: object) -> Switch:
    """An attribute that is there already becomes something else."""

    def switch() -> None:
        getattr(target, name)
        setattr(target, name, stand_in)

    return switch


def wrapped(target: Any, name: str, around: Callable[[Any], object]) -> Switch:
    """The same, made of what it was."""

    def switch() -> None:
        setattr(target, name, around(getattr(target, name)))

    return switch


def unlimited(settings: type, **bounds: object) -> Switch:
    """Whatever these settings are made with, these of them have these values: a limit that never applies."""
    fields: Any = settings
    assert bounds.keys() <= fields.__dataclass_fields__.keys(), f"{settings.__name__} has no {bounds}"

    def around(make: Callable[..., None]) -> object:
        def made(self: object, *values: object, **named: object) -> None:
            make(self, *values, **named)
            for name, bound in bounds.items():
                object.__setattr__(self, name, bound)

        return made

    return wrapped(settings, "__init__", around)


def altered(module: Any, name: str, **names: object) -> Switch:
    """A module that another one has imported, with some of its names changed, for that one only."""

    def switch() -> None:
        whole = getattr(module, name)
        for each in names:
            getattr(whole, each)
        setattr(module, name, SimpleNamespace(**{**vars(whole), **names}))

    return switch


def statements(change: Callable[[str], str | None]) -> Switch:
    """Every statement of the journal becomes another one; where that is None, it is not carried out at all."""

    def around_one(whole: Callable[..., Any]) -> object:
        def execute(self: object, sql: str, *values: object) -> object:
            changed = change(sql)
            return whole(self, "SELECT 0 WHERE 0") if changed is None else whole(self, changed, *values)

        return execute

    def around_many(whole: Callable[..., Any]) -> object:
        def executemany(self: object, sql: str, values: Iterable[object]) -> object:
            changed = change(sql)
            return None if changed is None else whole(self, changed, values)

        return executemany

    def switch() -> None:
        wrapped(GatheringConnection, "execute", around_one)()
        wrapped(GatheringConnection, "executemany", around_many)()

    return switch


class Forgetful(dict[Any, Any]):
    """A dictionary that says of every key that it is not there."""

    def get(self, key: object, default: Any = None) -> Any:
        """Always the default."""
        return default

    def __contains__(self, key: object) -> bool:
        return False


class Equal(int):
    """A number that is equal to whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class Alike:
    """Something that is equal to whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def always(value: object) -> Callable[..., Any]:
    """A function that gives the same whatever it is asked."""
    return lambda *_, **__: value
