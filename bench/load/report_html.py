"""The report as one HTML file: it loads nothing, tells no secret, and every picture stands beside its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from bench.load.fingerprint import disclosed, disclosed_options
from bench.load.interpreter import interpreter_remark, ran_on
from bench.load.report_page import page
from bench.load.report_plots import Pictured, bars, plots
from bench.load.report_svg import NARROW, WIDE, draw, draw_bars
from bench.load.report_words import NONE, digits, facts, lasting, rate, share, size, told
from bench.load.results import Fingerprint, Percentiles, Phase, Results

_FOOTER: Final = (
    "<footer>Service time runs from the moment a request was written to its answer; response time from the moment it "
    "was due on the schedule, so a stall counts against everyone who waited.</footer></main>"
)
_COLUMNS: Final = ("p50", "p90", "p99", "p99.9", "longest")


def write_report(results: Results, path: Path) -> None:
    """Write the page.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(rendered(results), encoding="utf-8")


def rendered(results: Results) -> str:
    """The page as text. Histograms that cannot be read leave out their picture, nothing else."""
    name = results.scenario or results.command
    parts = [
        f"<header><h1>Holdfast bench: {escape(name)}</h1>",
        f'<p class="soft">{escape(_under_title(results))}</p></header><main>',
        _verdict(results),
        _facts(results),
        *(_picture(one, number) for number, one in enumerate(plots(results))),
        _phases(results),
        _figures(results),
        _where(results.fingerprint),
        _configured(results),
        _FOOTER,
    ]
    return page(f"Holdfast bench: {name}", "\n".join(part for part in parts if part))


def _under_title(results: Results) -> str:
    version = results.fingerprint.versions.get("Holdfast", "")
    words = [f"holdfast-bench {results.command}", results.began_utc, f"Holdfast {version}" if version else ""]
    return " · ".join(told(word) for word in words if word)


def _verdict(results: Results) -> str:
    kind, word = ("held", "Held") if results.held else ("failed", "Did not hold")
    lines = "".join(f"<li>{escape(told(line))}</li>" for line in results.verdict)
    told_lines = f"<ul>{lines}</ul>" if lines else ""
    return f'<div class="verdict {kind}"><strong>{word}</strong>{told_lines}</div>'


def _facts(results: Results) -> str:
    boxes = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="remark">{escape(remark)}</dd></div>'
        for name, value, remark in facts(results)
    )
    return f'<dl class="facts">{boxes}</dl>' if boxes else ""


def _picture(pictured: Pictured, number: int) -> str:
    """A section: heading, legend, the plot for wide and narrow screens, and its figures."""
    plot = pictured.plot
    legend = "".join(f'<li class="{one.kind}"><span>{escape(one.name)}</span></li>' for one in plot.series)
    if plot.shaded:
        legend += '<li class="shade"><span>outage</span></li>'
    drawn = "".join(
        f'<div class="{screen}">{draw(plot, space, f"plot{number}{screen}")}</div>'
        for screen, space in (("wide", WIDE), ("narrow", NARROW))
    )
    words = f'<p class="soft">{escape(pictured.said)}</p>' if pictured.said else ""
    return (
        f"<section><h2>{escape(plot.title)}</h2>{words}"
        f'<div class="beside"><figure><ul class="legend">{legend}</ul>{drawn}</figure>'
        f"<div>{_table(pictured.heads, pictured.rows, plot.title)}{_samples(pictured)}</div></div></section>"
    )


def _samples(pictured: Pictured) -> str:
    """All that is drawn, for those who read it."""
    if not pictured.all_rows:
        return ""
    table = _table(pictured.all_heads, pictured.all_rows, f"{pictured.plot.title}: every point", tall=True)
    return f"<details><summary>Every point as a table</summary>{table}</details>"


def _phases(results: Results) -> str:
    if results.total is None:
        return ""
    phases = [*results.phases, results.total] if len(results.phases) > 1 else [results.total]
    outcome_heads = ("Phase", "Seconds", "Due", "Approved", "Declined", "Refused", "No answer", "Rate")
    outcomes = [
        (
            _phase_name(one, results.total),
            digits(one.seconds),
            *(f"{count:,}" for count in (one.offered, one.approved, one.declined, one.refused, one.failed)),
            rate(one.rate_per_s),
        )
        for one in phases
    ]
    heads = ("Phase", *_COLUMNS)
    service = [(_phase_name(one, results.total), *_times(one.latency.service)) for one in phases]
    response = [(_phase_name(one, results.total), *_times(one.latency.response)) for one in phases]
    return (
        f"<section><h2>Phases</h2>{_table(outcome_heads, outcomes, 'What became of the requests')}"
        f"{_table(heads, response, 'Response time: from when it was due')}"
        f"{_table(heads, service, 'Service time: from when it was written')}</section>"
    )


def _phase_name(phase: Phase, total: Phase) -> str:
    if phase is total:
        return "all"
    return f"{phase.name} (outage)" if phase.outage else phase.name


def _times(one: Percentiles) -> list[str]:
    values = (one.p50_us, one.p90_us, one.p99_us, one.p999_us, one.max_us)
    return [lasting(value) if one.count else NONE for value in values]


def _figures(results: Results) -> str:
    """Limits or peers: bars for rates, a table for everything."""
    if not results.figures:
        return ""
    title = "Beside others" if results.command == "peers" else "Beside the limits of this machine"
    rows = [
        (
            one.name,
            NONE if not one.value else rate(one.value) if one.unit == "1/s" else lasting(one.value),
            share(one.fraction) if one.fraction else NONE,
            told(one.note),
        )
        for one in results.figures
    ]
    table = _table(("", "Figure", "Gateway's fraction", "How"), rows, title, words=3)
    drawn = bars(results)
    if len(drawn) < 2:
        return f"<section><h2>{title}</h2>{table}</section>"
    pictures = "".join(
        f'<div class="{screen}">{draw_bars(drawn, space, f"bars{screen}", title)}</div>'
        for screen, space in (("wide", WIDE), ("narrow", NARROW))
    )
    words = '<p class="soft">Acknowledgements or operations a second; longer is faster.</p>'
    return f'<section><h2>{title}</h2>{words}<div class="beside"><figure>{pictures}</figure>{table}</div></section>'


def _where(where: Fingerprint) -> str:
    rows = [
        ("Processor", told(where.processor)),
        ("Cores", f"{where.cores}"),
        ("Memory", size(where.memory_bytes)),
        ("System", told(where.kernel)),
        ("File system", told(where.file_system)),
        ("Sync of the disk", f"{lasting(where.sync_us)}, median of an fdatasync after 4 KiB"),
        *((name, told(version)) for name, version in where.versions.items()),
    ]
    words = (("Ran on", ran_on(where)), ("Worth a look", interpreter_remark(where)))
    rows += [(name, told(said)) for name, said in words if said]
    return f'<section class="sort"><h2>Measured on</h2>{_table(("", ""), rows, "", head=False)}</section>'


def _configured(results: Results) -> str:
    options = [(name, f"{value}") for name, value in disclosed_options(results.options).items()]
    table = (
        f'<div class="sort">{_table(("Option", "Value"), options, "Options of the command")}</div>' if options else ""
    )
    configuration = disclosed(results.fingerprint.configuration)
    text = (
        f"<details><summary>Configuration of the gateway; keys, names, addresses and paths are withheld</summary>"
        f'<pre tabindex="0">{escape(configuration)}</pre></details>'
        if configuration
        else ""
    )
    return f"<section><h2>Configuration</h2>{table}{text}</section>" if table or text else ""


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    *,
    tall: bool = False,
    words: int = -1,
    head: bool = True,
) -> str:
    """A table that scrolls by itself where it does not fit; the column `words` is prose."""
    top = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    lines = []
    for row in rows:
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        for column, value in enumerate(row[1:], start=1):
            cells.append(f'<td class="words">{escape(value)}</td>' if column == words else f"<td>{escape(value)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    kind = "scroll tall" if tall else "scroll"
    label = escape(caption or "figures", quote=True)
    return (
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{label}">'
        f"<table>{named}{top}<tbody>{''.join(lines)}</tbody></table></div>"
    )


__all__ = ["rendered", "write_report"]
