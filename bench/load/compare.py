"""`holdfast-bench compare`: what changed between measurements beyond noise, and whether something got worse."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.load.compare_measures import RANKED_RUNS, Change, Verdict, changed, failures, measures
from bench.load.interpreter import ran_on
from bench.load.report_text import report_console
from bench.load.report_words import lasting, size
from bench.load.results import Results, ResultsUnreadable, read_results

NO_REGRESSION: Final = 0
REGRESSION: Final = 1
UNUSABLE: Final = 2

_OPTIONS_ASIDE: Final = frozenset({"seed", "json", "html", "hgrm", "keep", "folder", "out", "report", "quiet"})
"""Options that do not change what is measured."""
_MEMORY_ALIKE: Final = 0.05
_SYNC_ALIKE: Final = 1.5
_COLOURS: Final = {
    Verdict.REGRESSION: "bold red",
    Verdict.IMPROVEMENT: "green",
    Verdict.UNCLEAR: "yellow",
    Verdict.SAME: "",
    Verdict.SHOWN: "dim",
}


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What is compared.

    Attributes:
        files: documents or patterns. Without `base` the first is the base, and each other one is compared with it by
            itself; with `base` all of them together are the other side.
        base: documents or patterns of the base.
        anyway: compare also what is not alike.
        threshold_percent: the least change that counts.
    """

    files: Sequence[str]
    base: Sequence[str] = ()
    anyway: bool = False
    as_json: bool = False
    threshold_percent: float = 5.0


@dataclass(frozen=True, slots=True)
class Compared:
    """One side beside the base.

    Attributes:
        names: the files.
        different: why both are not alike, where that was overridden.
        notes: what else is to be known.
        changes: all measures, the worst first.
        lost_hold: the base held, this did not.
    """

    names: list[str]
    runs: int
    different: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    lost_hold: bool = False

    @property
    def regressed(self) -> bool:
        """Whether something got worse beyond noise."""
        return self.lost_hold or any(one.verdict is Verdict.REGRESSION for one in self.changes)


class NotComparable(Exception):
    """The input cannot be used; the message says what and why, a line for each."""


def run(options: CompareOptions, console: Console | None = None) -> int:
    """Compare and print.

    Returns:
        0 where nothing got worse, 1 on a regression, 2 where the input cannot be used.
    """
    console = report_console() if console is None else console
    try:
        base_names, sides = _sides(options)
        base = [read_results(Path(name)) for name in base_names]
        read = [(names, [read_results(Path(name)) for name in names]) for names in sides]
        compared = [compare(base, runs, names, options) for names, runs in read]
    except (NotComparable, ResultsUnreadable) as error:
        if options.as_json:
            print(json.dumps({"error": str(error).splitlines()}, indent=2))
        else:
            for line in str(error).splitlines():
                console.print(Text(f"holdfast-bench: {line}"), soft_wrap=True)
        return UNUSABLE
    regressed = any(one.regressed for one in compared)
    if options.as_json:
        print(json.dumps(_document(base_names, compared, options), indent=2))
    else:
        for one in compared:
            _show(console, base_names, one, options)
    return REGRESSION if regressed else NO_REGRESSION


def compare(base: Sequence[Results], now: Sequence[Results], names: Sequence[str], options: CompareOptions) -> Compared:
    """Judge one side beside the base.

    Raises:
        NotComparable: they are not alike, and that was not overridden; or nothing was measured on both sides.
    """
    different = sorted({line for one in (*base[1:], *now) for line in differences(base[0], one)})
    if different and not options.anyway:
        raise NotComparable("\n".join(["not alike (--anyway compares all the same):", *different]))
    threshold = options.threshold_percent / 100
    found = {one.name: changed(one, base, now, threshold) for one in measures(base[0])}
    changes = [*(one for one in found.values() if one is not None), *failures(base, now)]
    missing = [name for name, one in found.items() if one is None]
    if not changes:
        raise NotComparable(f"{', '.join(names)}: nothing was measured on both sides")
    order = list(Verdict)
    return Compared(
        names=list(names),
        runs=len(now),
        different=different,
        notes=_notes(base, now) + ([f"not measured on both sides: {', '.join(missing)}"] if missing else []),
        changes=sorted(changes, key=lambda one: order.index(one.verdict)),
        lost_hold=_held_share(base) > 0.5 >= _held_share(now),
    )


def differences(one: Results, other: Results) -> list[str]:
    """Why two documents are not of the same scenario, options and kind of machine; empty where they are."""
    found = []
    a, b = one.fingerprint, other.fingerprint
    for name, left, right in (
        ("command", one.command, other.command),
        ("scenario", one.scenario, other.scenario),
        ("processor", a.processor, b.processor),
        ("cores", a.cores, b.cores),
        ("file system", a.file_system, b.file_system),
    ):
        if left != right:
            found.append(f"{name}: {left} and {right}")
    if abs(a.memory_bytes - b.memory_bytes) > _MEMORY_ALIKE * max(a.memory_bytes, b.memory_bytes):
        found.append(f"memory: {size(a.memory_bytes)} and {size(b.memory_bytes)}")
    for name in sorted((one.options.keys() | other.options.keys()) - _OPTIONS_ASIDE):
        if one.options.get(name) != other.options.get(name):
            first, second = one.options.get(name, "absent"), other.options.get(name, "absent")
            found.append(f"option {name}: {first} and {second}")
    return found


def _sides(options: CompareOptions) -> tuple[list[str], list[list[str]]]:
    """The files of the base, and of each side."""
    files = _expanded(options.files)
    if options.base:
        base = _expanded(options.base)
        if not files:
            raise NotComparable("name the documents to compare with the base")
        return base, [files]
    if len(files) < 2:
        raise NotComparable("name at least two documents, or use --base")
    return files[:1], [[name] for name in files[1:]]


def _expanded(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if Path(name).exists() or not glob.has_magic(name):
            found.append(name)
            continue
        matching = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - a pattern of any form, as a shell takes it
        if not matching:
            raise NotComparable(f"{name}: no such file")
        found += matching
    return found


def _held_share(runs: Sequence[Results]) -> float:
    return sum(one.held for one in runs) / len(runs)


def _notes(base: Sequence[Results], now: Sequence[Results]) -> list[str]:
    """What may explain a change, or weakens what is said."""
    a, b = base[0].fingerprint, now[0].fingerprint
    notes = [
        f"{name}: {a.versions.get(name, 'absent')}, now {b.versions.get(name, 'absent')}"
        for name in sorted(a.versions.keys() | b.versions.keys())
        if a.versions.get(name) != b.versions.get(name)
    ]
    if a.python is not None and b.python is not None and ran_on(a) != ran_on(b):
        notes.append(f"ran on: {ran_on(a)}, now {ran_on(b)}")
    if a.kernel != b.kernel:
        notes.append(f"kernel: {a.kernel}, now {b.kernel}")
    if a.configuration != b.configuration:
        notes.append("the gateway's configuration differs")
    if min(a.sync_us, b.sync_us) > 0 and max(a.sync_us, b.sync_us) / min(a.sync_us, b.sync_us) > _SYNC_ALIKE:
        notes.append(f"the disk synced in {lasting(a.sync_us)}, now in {lasting(b.sync_us)}; that alone changes rates")
    phases = [{one.name for run in runs for one in run.phases} for runs in (base, now)]
    if alone := sorted(phases[0] ^ phases[1]):
        notes.append(f"phases that only one side has: {', '.join(alone)}")
    for who, runs in (("base", base), ("now", now)):
        if any(one.cost is not None and one.cost.generator_cpu_share >= 0.9 for one in runs):
            notes.append(f"{who}: the generator was the limit, so the rate says little about the gateway")
    for who, runs in (("base", base), ("now", now)):
        if broken := [one for one in runs if not one.held]:
            said = f": {broken[0].verdict[0]}" if broken[0].verdict else ""
            notes.append(f"{who}: {len(broken)} of {len(runs)} did not hold, look there first{said}")
    if lacking := _lacking(base, now):
        notes.append(f"measured in the base alone, and not compared: {', '.join(lacking)}")
    few = min(len(base), len(now))
    if few < RANKED_RUNS:
        notes.append(
            f"only {few} run{'s' if few > 1 else ''} on a side: the noise is estimated from half-second samples "
            f"and from what runs usually differ; {RANKED_RUNS} runs a side or more tell it, 5 are better"
        )
        if any(phase.outage for one in base for phase in one.phases):
            notes.append("the p99 of an outage is one event in a run: with so few runs it is not judged")
    return notes


def _lacking(base: Sequence[Results], now: Sequence[Results]) -> list[str]:
    """Measures that the base has and the other side does not."""
    return [
        one.name
        for one in measures(base[0])
        if any(one.of(run) is not None for run in base) and all(one.of(run) is None for run in now)
    ]


def _document(base_names: list[str], compared: Sequence[Compared], options: CompareOptions) -> dict[str, object]:
    return {
        "version": 1,
        "base": base_names,
        "threshold_percent": options.threshold_percent,
        "regressed": any(one.regressed for one in compared),
        "against": [{**asdict(one), "regressed": one.regressed} for one in compared],
    }


def _show(console: Console, base_names: Sequence[str], compared: Compared, options: CompareOptions) -> None:
    count = sum(one.verdict is Verdict.REGRESSION for one in compared.changes)
    better = sum(one.verdict is Verdict.IMPROVEMENT for one in compared.changes)
    if compared.regressed:
        head, style = "REGRESSION", "bold red"
    else:
        head, style = ("BETTER" if better else "NO REGRESSION"), "bold green"
    words = f"  {count} worse, {better} better, {len(compared.changes) - count - better} not judged or within noise"
    console.print(Text.assemble((head, style), words))
    limit = f"{options.threshold_percent:g} %"
    console.print(Text(f"  base {', '.join(base_names)}"), soft_wrap=True)
    console.print(Text(f"  now  {', '.join(compared.names)}; a change counts from {limit}"), soft_wrap=True)
    if compared.lost_hold:
        console.print(Text("  the base held, this did not", style="bold red"))
    for line in compared.different:
        console.print(Text(f"  not alike: {line}", style="yellow"), soft_wrap=True)
    for line in compared.notes:
        console.print(Text(f"  note: {line}"), soft_wrap=True)
    console.print()
    console.print(_table(compared.changes))
    console.print()


def _table(changes: Sequence[Change]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("measure")
    for head in ("base", "now", "change", "noise", "sure"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for one in changes:
        table.add_row(
            Text(one.measure),
            one.base_shown,
            one.now_shown,
            f"{one.percent:+.1f} %",
            f"±{one.noise_percent:.1f} %",
            f"{min(100 * one.sure, 99.9):.1f} %" if one.sure else "–",
            Text(one.verdict.value, style=_COLOURS[one.verdict]),
        )
    return table
