"""How figures are written for people: three digits, a unit that fits; and the facts of a run, by interest."""

from __future__ import annotations

import getpass
import platform
import re
from typing import Final, NamedTuple

from bench.load.results import Phase, Results

NONE: Final = "–"
"""Stands where nothing was measured."""

_PATH: Final = re.compile(r"(?<![\w/.:])(?:~|/)[\w.+-]*(?:/[\w.+-]+)+/?|\b[A-Za-z]:\\\S+")
_ADDRESS: Final = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-fA-F:]+:[0-9a-fA-F:]*\](?::\d+)?")


class Fact(NamedTuple):
    """One figure: what it is, how much, and what to know about it."""

    name: str
    value: str
    remark: str = ""


def digits(value: float) -> str:
    """A number with three digits that matter, thousands set apart."""
    size = abs(value)
    if size >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:,.1f}"
    return f"{value:,.2f}" if size >= 0.1 else f"{value:.3g}"


def rate(per_s: float) -> str:
    """A rate."""
    return f"{digits(per_s)}/s"


def lasting(us: float) -> str:
    """A time, given in microseconds."""
    if us >= 120e6:
        return f"{digits(us / 60e6)} min"
    if us >= 1e6:
        return f"{digits(us / 1e6)} s"
    return f"{digits(us / 1e3)} ms" if us >= 1e3 else f"{digits(us)} µs"


def size(count: float) -> str:
    """Bytes, by 1,024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{digits(count)} {unit}"


def counted(count: int) -> str:
    """A count; a dash for -1, which was not counted."""
    return NONE if count < 0 else f"{count:,}"


def share(part: float) -> str:
    """A fraction as so much of something."""
    return f"{part:.2f}" if part < 9.95 else digits(part)


def told(text: str) -> str:
    """A sentence of somebody else without paths, addresses, and the names of this machine and its user."""
    text = _ADDRESS.sub("(address)", _PATH.sub("(path)", text))
    for name, instead in ((platform.node(), "(host)"), (_user(), "(user)")):
        if len(name) > 2 and name not in {"localhost", "root"}:
            text = re.sub(rf"\b{re.escape(name)}\b", instead, text)
    return text


def failed_share(phase: Phase) -> float:
    """The part of the requests that had no answer."""
    return phase.failed / phase.offered if phase.offered else 0.0


def facts(results: Results) -> list[Fact]:
    """What a run comes to; nothing that was not measured."""
    found: list[Fact] = []
    total, cost = results.total, results.cost
    if total is not None:
        response = total.latency.response
        outcome = f"{total.answered:,} of {total.offered:,} due"
        found.append(Fact("Answers", rate(total.rate_per_s), f"{outcome}, {total.failed:,} without an answer"))
        if response.count:
            found.append(Fact("Response p99", lasting(response.p99_us), f"half within {lasting(response.p50_us)}"))
            found.append(Fact("Response p99.9", lasting(response.p999_us), f"longest {lasting(response.max_us)}"))
    if cost is not None:
        found.append(Fact("CPU for 1,000", f"{digits(cost.gateway_cpu_s_per_1000)} s", "seconds of the gateway"))
        log = f"write-ahead log at most {size(cost.log_max_bytes)}"
        found.append(Fact("Memory, most", size(cost.resident_max_bytes), "resident"))
        found.append(Fact("Disk for one", f"{digits(cost.disk_bytes_per_transaction)} B", log))
        found.append(Fact("Commits", counted(cost.commits), _shared(results)))
        found.append(Fact("Syncs", counted(cost.syncs), "fdatasync and fsync" if cost.syncs >= 0 else "not counted"))
        limit = (
            "near 1 the generator was the limit" if cost.generator_cpu_share < 0.9 else "the generator was the limit"
        )
        found.append(Fact("Generator", share(cost.generator_cpu_share), f"of one core; {limit}"))
    return found


def _shared(results: Results) -> str:
    total, cost = results.total, results.cost
    if total is None or cost is None or cost.commits <= 0:
        return ""
    return f"{digits(total.answered / cost.commits)} transactions in one"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
