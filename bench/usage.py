"""What a gateway uses of its machine: the process that was started, the journal's process beside it, and the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """A process and its children; empty where it is gone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children so far, their threads included; 0 where it is gone."""
    return sum(_cpu_s(each) for each in family(pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children; 0 where it is gone. What they share counts for each."""
    return sum(resident_each(pid))


def resident_peaks(pid: int) -> list[int]:
    """The most resident memory of a process, then of each of its children, since each was started; empty where gone."""
    return [_status_bytes(each, "VmHWM:") for each in family(pid)]


def resident_each(pid: int) -> list[int]:
    """Resident memory of a process, then of each of its children; empty where it is gone."""
    return [_resident_bytes(each) for each in family(pid)]


def journal_bytes(folder: Path) -> int:
    """Size of the journal's files in a gateway's folder."""
    return sum(file_bytes(path) for path in folder.glob("journal.sqlite3*"))


def file_bytes(path: Path) -> int:
    """Size of a file; 0 where it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _status_bytes(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
