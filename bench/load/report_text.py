"""The report on a terminal: the verdict first, then rates, times and costs. Plain lines where it is no terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.load.interpreter import interpreter_remark, ran_on
from bench.load.report_words import NONE, digits, facts, lasting, rate, share, size, told
from bench.load.results import Percentiles, Phase, Results

_PLAIN_WIDTH = 140


def report_console() -> Console:
    """Standard output: coloured and fitted on a terminal, plain and wide anywhere else."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, no_color=True, width=_PLAIN_WIDTH)


def show(results: Results, console: Console | None = None) -> None:
    """Print the whole report."""
    console = report_console() if console is None else console
    name = " ".join(word for word in (results.command, results.scenario) if word)
    held = Text("HELD" if results.held else "DID NOT HOLD", style="bold green" if results.held else "bold red")
    console.print(Text.assemble(held, f"  holdfast-bench {name}"))
    for line in results.verdict:
        console.print(Text(f"  {told(line)}"), soft_wrap=True)
    if results.total is not None:
        console.print()
        console.print(_rates(results, results.total))
        console.print()
        console.print(_times(results, results.total))
    found = facts(results)
    if results.cost is not None and found:
        console.print()
        console.print(_costs(results))
    if results.figures:
        console.print()
        console.print(_figures(results))
    console.print()
    where = results.fingerprint
    machine = (
        f"{where.processor}, {where.cores} cores, {size(where.memory_bytes)}, {where.kernel}, "
        f"{where.file_system} with a sync in {lasting(where.sync_us)}"
    )
    for line in (machine, ran_on(where)):
        if line:
            console.print(Text(line, style="dim" if console.is_terminal else ""), soft_wrap=True)
    if remark := interpreter_remark(where):
        console.print(Text(f"worth a look: {remark}"), soft_wrap=True)


def _table(*heads: str, left: int = 1) -> Table:
    """Columns of figures; the first ones are words."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < left else "right", no_wrap=number >= left)
    return table


def _phases(results: Results, total: Phase) -> list[tuple[str, Phase]]:
    named = [(f"{one.name} (outage)" if one.outage else one.name, one) for one in results.phases]
    return [*named, ("all", total)] if len(named) != 1 else named


def _rates(results: Results, total: Phase) -> Table:
    table = _table("phase", "seconds", "due", "approved", "declined", "refused", "no answer", "rate")
    for name, one in _phases(results, total):
        counts = (one.offered, one.approved, one.declined, one.refused, one.failed)
        table.add_row(name, digits(one.seconds), *(f"{count:,}" for count in counts), rate(one.rate_per_s))
    return table


def _times(results: Results, total: Phase) -> Table:
    table = _table("phase", "time", "mean", "p50", "p90", "p99", "p99.9", "longest", left=2)
    for name, one in _phases(results, total):
        table.add_row(name, "service", *_percentiles(one.latency.service))
        table.add_row("", "response", *_percentiles(one.latency.response))
    return table


def _percentiles(one: Percentiles) -> list[str]:
    values = (one.mean_us, one.p50_us, one.p90_us, one.p99_us, one.p999_us, one.max_us)
    return [lasting(value) if one.count else NONE for value in values]


def _costs(results: Results) -> Table:
    """What is not in the other tables: CPU, memory, disk, commits, the generator."""
    table = Table.grid(padding=(0, 2))
    for name, value, remark in facts(results):
        if name.startswith(("Answers", "Response")):
            continue
        table.add_row(name, Text(value, justify="right"), remark)
    return table


def _figures(results: Results) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("beside" if results.command == "peers" else "limit", no_wrap=True)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("gateway's fraction", justify="right", no_wrap=True)
    table.add_column("how", overflow="fold")
    for one in results.figures:
        value = rate(one.value) if one.unit == "1/s" else lasting(one.value)
        table.add_row(
            one.name, value if one.value else NONE, share(one.fraction) if one.fraction else NONE, told(one.note)
        )
    return table
