"""What a measurement says: one versioned document, written by `run`, `limits` and `peers`, read by `compare`.

Times are in microseconds where a field's name says so. *Service time* is from the moment a request was written to its
answer; *response time* is from the moment it was due on the schedule, so a stall counts against everyone who waited.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

VERSION: Final = 1
UNWRITTEN: Final = 2
"""The exit code where all held, and a file could not be written."""


class ResultsUnreadable(Exception):
    """A file is not a document of this bench; the message says which and why."""


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """One distribution of times; all 0 where `count` is 0."""

    count: int
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Both ways to look at the same answers.

    Attributes:
        service_hdr, response_hdr: the whole histograms, base64 of HdrHistogram's V2 compressed encoding.
    """

    service: Percentiles
    response: Percentiles
    service_hdr: str
    response_hdr: str


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a run in which nothing was changed from outside.

    Attributes:
        outage: whether the acquirer or the gateway was away.
        offered: requests that were due; answered = approved + refused + declined; failed had no answer at all.
        rate_per_s: answers a second.
    """

    name: str
    began_s: float
    seconds: float
    outage: bool = False
    offered: int
    answered: int
    approved: int
    declined: int
    refused: int
    failed: int
    rate_per_s: float
    latency: Latency


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Half a second of a run. `depth` is what the gateway owes, -1 where it could not be asked."""

    at_s: float
    rate_per_s: float
    p99_us: float
    depth: int
    resident_bytes: int
    log_bytes: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the work took.

    Attributes:
        gateway_cpu_s_per_1000: CPU seconds of the gateway for 1,000 answered transactions.
        generator_cpu_share: of one core, the most in any phase; near 1.0 the generator was the limit.
        disk_bytes_per_transaction: growth of the journal's files.
        syncs: fdatasync and fsync of the gateway, -1 where they cannot be counted.
    """

    gateway_cpu_s_per_1000: float
    generator_cpu_share: float
    resident_max_bytes: int
    disk_bytes_per_transaction: float
    commits: int
    syncs: int
    log_max_bytes: int


class Optimised(StrEnum):
    """Whether an interpreter was built with profile-guided optimisation."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class PythonBuild(msgspec.Struct, frozen=True, kw_only=True):
    """The interpreter that ran the gateway.

    Attributes:
        compiled_with: implementation and compiler.
        because: what `optimised` was concluded from.
    """

    version: str
    compiled_with: str
    optimised: Optimised
    because: str


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what it was measured; nothing that names a machine or a person.

    Attributes:
        sync_us: median time of an fdatasync after a write of 4 KiB into the folder that was measured in.
        versions: of Python, SQLite, uvloop, aiohttp, cryptography, msgspec and Holdfast.
        configuration: the gateway's configuration file.
        python: None in older documents.
        gateway_code: "interpreted" or "compiled, 50 modules"; empty in older documents.
    """

    processor: str
    cores: int
    memory_bytes: int
    kernel: str
    file_system: str
    sync_us: float
    versions: dict[str, str]
    configuration: str = ""
    python: PythonBuild | None = None
    gateway_code: str = ""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number beside others: a limit of the machine, or what somebody else's server does with the same work.

    Attributes:
        unit: "1/s" or "us".
        fraction: the gateway's rate as a fraction of this one, 0 where that was not measured in the same run.
        note: how it was measured, in a sentence; why it is missing, where `value` is 0.
    """

    name: str
    value: float
    unit: str
    fraction: float = 0.0
    note: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The document.

    Attributes:
        command: "run", "limits" or "peers"; `scenario` is of a run.
        options: as they were given, with defaults.
        held: the verdict; `verdict` says it in a line or several.
        total: all phases as one, None for `limits`.
    """

    version: int = VERSION
    command: str
    scenario: str = ""
    began_utc: str
    options: dict[str, str | int | float | bool]
    held: bool
    verdict: list[str]
    phases: list[Phase] = []
    samples: list[Sample] = []
    total: Phase | None = None
    cost: Cost | None = None
    figures: list[Figure] = []
    fingerprint: Fingerprint


class _Versioned(msgspec.Struct, frozen=True):
    """Any document of this bench."""

    version: int


def write_results(results: Results, path: Path) -> None:
    """Write the document as JSON that a person can read, too."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


def written(write: Callable[[], None]) -> bool:
    """Write what was asked for; where a disk does not take it, say so: what was measured stands all the same.

    Returns:
        Whether all was written.
    """
    try:
        write()
    except OSError as error:
        print(f"holdfast-bench: the results could not be written, or not all of them: {error}")
        return False
    return True


def read_results(path: Path) -> Results:
    """Read a document back.

    Raises:
        ResultsUnreadable: it cannot be read, is something else, or of another version.
    """
    try:
        text = path.read_bytes()
        # The version first: what else stands in a document of another version is not ours to judge.
        version = msgspec.json.decode(text, type=_Versioned).version
        if version != VERSION:
            raise ResultsUnreadable(f"{path}: version {version} of the format, this bench reads {VERSION}")
        return msgspec.json.decode(text, type=Results)
    except OSError as error:
        raise ResultsUnreadable(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsUnreadable(f"{path}: not a results file of holdfast-bench: {error}") from error
