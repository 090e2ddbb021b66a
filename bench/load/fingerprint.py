"""Where a measurement was made: what the figures depend on, and nothing that names a machine, a person or a place."""

from __future__ import annotations

import math
import os
import platform
import re
import sqlite3
import statistics
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from bench.load.interpreter import python_build
from bench.load.results import Fingerprint
from protocol.compiled import code_kind

WITHHELD: Final = "(withheld)"
"""Stands where a configuration or an option had something that a report does not tell."""

_SYNC_BYTES: Final = 4096
_SYNCS: Final = 200
_SYNC_SECONDS_MAX: Final = 1.0
_PACKAGES: Final = ("uvloop", "aiohttp", "cryptography", "msgspec", "holdfast")

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,11}(-[A-Za-z0-9]{1,11}){0,3}")
_TELLING: Final = frozenset(
    (
        *("account", "address", "addresses", "auth", "card", "certificate", "credential", "endpoint", "endpoints"),
        *("file", "folder", "host", "hosts", "id", "json", "keep", "kek", "key", "keys", "label", "listen", "mac"),
        *("merchant", "name", "pan", "passphrase", "password", "path", "pin", "secret", "secrets", "serial", "server"),
        *("terminal", "token", "tokens", "url", "user"),
    )
)
"""Last words of the names of settings and tables whose values stay here, whatever they look like."""


def fingerprint(folder: Path, configuration: str = "") -> Fingerprint:
    """What this machine is, as far as figures depend on it. Takes up to a second, for the syncs.

    Args:
        folder: where the journal is; it exists, and a file is made in it and taken away again.
        configuration: the gateway's configuration file; only what `disclosed` leaves of it is kept.
    Raises:
        OSError: the folder cannot be written in.
    """
    return Fingerprint(
        processor=_processor(),
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        kernel=_kernel(),
        file_system=_file_system(folder),
        sync_us=round(sync_us(folder), 1),
        versions=_versions(),
        configuration=disclosed(configuration),
        python=python_build(),
        gateway_code=code_kind(),
    )


def sync_us(folder: Path) -> float:
    """The median time of an fdatasync after 4 KiB were added to a file in this folder, in microseconds.

    Raises:
        OSError: the folder cannot be written in.
    """
    synced = getattr(os, "fdatasync", os.fsync)
    page = os.urandom(_SYNC_BYTES)
    took: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        number = file.fileno()
        ends = time.perf_counter() + _SYNC_SECONDS_MAX
        while len(took) < _SYNCS and (not took or time.perf_counter() < ends):
            os.write(number, page)
            began = time.perf_counter()
            synced(number)
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def disclosed(configuration: str) -> str:
    """What may be told of a configuration file: numbers, switches and plain words.

    Names, addresses, paths, keys and free text are withheld, and comments are gone. Telling something twice changes
    nothing. A text that is not TOML is withheld as a whole.
    """
    if not configuration.strip():
        return ""
    try:
        parsed = tomllib.loads(configuration)
    except tomllib.TOMLDecodeError:
        return WITHHELD
    return "\n".join(_lines(parsed, "")).strip() + "\n"


def disclosed_options(options: Mapping[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    """The same of the options of a command."""
    return {name: value if _tellable(name, value) else WITHHELD for name, value in options.items()}


def _lines(table: Mapping[str, object], prefix: str, *, withheld: bool = False) -> Iterator[str]:
    """TOML of a table; its own settings first. All that is below a telling name is withheld."""
    for name, value in table.items():
        if not isinstance(value, dict) and not _is_tables(value):
            yield f"{_named(name)} = {_value('secret' if withheld else name, value)}"
    for name, value in table.items():
        below = f"{prefix}{_named(name)}"
        secret = withheld or _last_word(name) in _TELLING
        if isinstance(value, dict):
            yield f"\n[{below}]"
            yield from _lines(value, f"{below}.", withheld=secret)
        elif isinstance(value, list) and _is_tables(value):
            for one in value:
                yield f"\n[[{below}]]"
                yield from _lines(one, f"{below}.", withheld=secret)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _named(name: str) -> str:
    """A setting's name; one that is no plain name was chosen by somebody."""
    return name if re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name) else f'"{WITHHELD}"'


def _value(name: str, value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(name, one) for one in value)}]"
    if not _tellable(name, value):
        return f'"{WITHHELD}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _last_word(name: str) -> str:
    return re.split(r"[_-]", name.lower())[-1]


def _tellable(name: str, value: object) -> bool:
    if _last_word(name) in _TELLING and not isinstance(value, bool):
        return False
    if isinstance(value, str):
        return not value or value == WITHHELD or _PLAIN.fullmatch(value) is not None
    return isinstance(value, bool | int | float)


def _processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Hardware", "cpu model"} and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def _cores() -> int:
    """What this run may use at once: the system's, less what a container withholds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def _memory_bytes() -> int:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(memory, int(limit)) if limit.isdigit() else memory


def _kernel() -> str:
    """System and version; what follows the numbers of a release may be anybody's words."""
    numbers = re.match(r"\d+(\.\d+)*(-\d+)?", platform.release())
    return f"{platform.system()} {numbers[0] if numbers else ''} {platform.machine()}".replace("  ", " ")


def _file_system(folder: Path) -> str:
    """The type of the file system, such as `ext4`; "unknown" where the system does not tell."""
    inside = folder.resolve()
    best = (-1, "unknown")
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        # Of several at one point the last was mounted over the others.
        if inside.is_relative_to(point) and len(point.parts) >= best[0]:
            best = (len(point.parts), right.split(" ", 1)[0])
    return best[1]


def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for package in _PACKAGES:
        try:
            versions[package if package != "holdfast" else "Holdfast"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _read(path: str) -> str:
    """A file of the system; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
