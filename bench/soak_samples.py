"""What a soak measures once a second, and what of it is kept: a line in a file, and one figure of each per window."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.child import LOG_NAME
from bench.usage import family, file_bytes

JOURNAL_NAME: Final = "journal.sqlite3"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the gateway. What cannot be known just then is None.

    Attributes:
        at_s: since the soak began; life: number of the gateway's start; life_s: since it was ready.
        quiet: nobody sells, nothing is owed, no trouble: like is compared with like.
        rss_bytes, handles, threads: from /proc.
        journal_bytes, wal_bytes, log_bytes: sizes of the files.
        queued: transactions that owe something.
        transactions: begun by terminals so far.
        bench_rss_bytes: of the bench itself.
    """

    at_s: float
    life: int
    life_s: float
    quiet: bool
    rss_bytes: int | None
    handles: int | None
    threads: int | None
    journal_bytes: int
    wal_bytes: int
    log_bytes: int
    queued: int | None
    transactions: int
    bench_rss_bytes: int | None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A round and the healing behind it, in one line.

    Attributes:
        life_s: age of the process at the end.
        rss_bytes: median of the quiet samples; handles, threads: the least of them, as a leak never goes down.
        journal_bytes: pages in use, what is only in the log included.
        log_bytes: of the gateway's own log file.
        wal_most_bytes, queued_most: over the whole window.
        settled_s: from the end of the traffic until nothing was owed.
        transactions: of this window.
    """

    number: int
    at_s: float
    life: int
    life_s: float
    rss_bytes: int | None
    handles: int | None
    threads: int | None
    journal_bytes: int
    log_bytes: int
    wal_most_bytes: int
    queued_most: int
    settled_s: float
    transactions: int
    bench_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses."""

    rss_bytes: int
    handles: int
    threads: int


def usage_of(pid: int) -> Usage | None:
    """What a process and its children use; None where it is gone, or where there is no /proc."""
    used = [one for each in family(pid) if (one := _usage_of(each)) is not None]
    if not used:
        return None
    return Usage(sum(one.rss_bytes for one in used), sum(one.handles for one in used), sum(one.threads for one in used))


def _usage_of(pid: int) -> Usage | None:
    proc = Path("/proc") / str(pid)
    try:
        lines = (proc / "status").read_text(encoding="ascii", errors="replace").splitlines()
        handles = len(os.listdir(proc / "fd"))  # noqa: PTH208 - names only
    except OSError:
        return None
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    if "VmRSS" not in told:  # it has ended, and nobody has fetched its status yet
        return None
    return Usage(int(told["VmRSS"].split()[0]) * 1024, handles, int(told["Threads"]))


def journal_pages_bytes(folder: Path) -> int:
    """Size of the journal with what only its write-ahead log holds, to the page; the file's own where that is busy."""
    path = folder / JOURNAL_NAME
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2)) as reader,
    ):
        pages = reader.execute("PRAGMA page_count").fetchone()[0]
        return int(pages) * int(reader.execute("PRAGMA page_size").fetchone()[0])
    return file_bytes(path)


def look(
    folder: Path, pid: int | None, *, at_s: float, life: int, life_s: float, quiet: bool, queued: int | None, sold: int
) -> Sample:
    """Take a sample now. `pid` is None while the gateway is down."""
    used = usage_of(pid) if pid is not None else None
    own = usage_of(os.getpid())
    return Sample(
        at_s=round(at_s, 2),
        life=life,
        life_s=round(life_s, 2),
        quiet=quiet,
        rss_bytes=used.rss_bytes if used else None,
        handles=used.handles if used else None,
        threads=used.threads if used else None,
        journal_bytes=file_bytes(folder / JOURNAL_NAME),
        wal_bytes=file_bytes(folder / f"{JOURNAL_NAME}-wal"),
        log_bytes=file_bytes(folder / LOG_NAME),
        queued=queued,
        transactions=sold,
        bench_rss_bytes=own.rss_bytes if own else None,
    )


@dataclass(slots=True)
class Samples:
    """Samples of the window that is on, and the windows that are over. All samples go to a file."""

    path: Path
    windows: list[Window] = field(default_factory=list)
    newest: Sample | None = None
    _here: list[Sample] = field(default_factory=list)
    _sold_before: int = 0

    def add(self, sample: Sample) -> None:
        """Take a sample."""
        self.newest = sample
        self._here.append(sample)
        with self.path.open("ab") as lines:
            lines.write(msgspec.json.encode(sample) + b"\n")

    def end_window(self, settled_s: float, journal_bytes: int) -> None:
        """Make a window of the samples since the last one; nothing where none was quiet."""
        here, self._here = self._here, []
        quiet = [one for one in here if one.quiet and one.rss_bytes is not None]
        if not quiet:
            return
        last = quiet[-1]
        window = Window(
            number=len(self.windows) + 1,
            at_s=last.at_s,
            life=last.life,
            life_s=last.life_s,
            rss_bytes=int(median(one.rss_bytes or 0 for one in quiet)),
            handles=min(one.handles or 0 for one in quiet),
            threads=min(one.threads or 0 for one in quiet),
            journal_bytes=journal_bytes,
            log_bytes=last.log_bytes,
            wal_most_bytes=max(one.wal_bytes for one in here),
            queued_most=max((one.queued for one in here if one.queued is not None), default=0),
            settled_s=round(settled_s, 2),
            transactions=last.transactions - self._sold_before,
            bench_rss_bytes=last.bench_rss_bytes,
        )
        self._sold_before = last.transactions
        self.windows.append(window)
