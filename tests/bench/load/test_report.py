"""The reports of a measurement: the document stays readable, the page loads nothing and tells no secret."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import platform
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench.load.histogram import LatencyRecorder
from bench.load.report_html import rendered, write_report
from bench.load.report_plots import gathered, plots
from bench.load.report_svg import WIDE, linear_ticks, log_ticks
from bench.load.report_text import show
from bench.load.report_words import digits, lasting, size, told
from bench.load.results import Results, ResultsUnreadable, read_results, write_results
from tests.bench.load.documents import outage_run, peers_run

GOLDEN = """
{"version": 1, "command": "run", "scenario": "outage", "began_utc": "2026-03-01T12:00:00Z",
 "options": {"terminals": 64, "seconds": 20.0, "tls": false, "dialect": "unionpay"},
 "held": true, "verdict": ["It held."],
 "phases": [{"name": "cut", "began_s": 0.0, "seconds": 2.0, "outage": true, "offered": 10, "answered": 9, "approved": 7,
   "declined": 1, "refused": 1, "failed": 1, "rate_per_s": 4.5, "latency": {
   "service": {"count": 9, "mean_us": 1.5, "p50_us": 1, "p90_us": 2, "p99_us": 3, "p999_us": 4, "max_us": 5},
   "response": {"count": 9, "mean_us": 2.5, "p50_us": 2, "p90_us": 3, "p99_us": 4, "p999_us": 5, "max_us": 6},
   "service_hdr": "", "response_hdr": ""}}],
 "samples": [{"at_s": 0.5, "rate_per_s": 4.0, "p99_us": 3.0, "depth": -1, "resident_bytes": 1024, "log_bytes": 512}],
 "total": null,
 "cost": {"gateway_cpu_s_per_1000": 0.05, "generator_cpu_share": 0.4, "resident_max_bytes": 2048,
   "disk_bytes_per_transaction": 1400.5, "commits": 3, "syncs": -1, "log_max_bytes": 512},
 "figures": [{"name": "echo", "value": 200000.0, "unit": "1/s", "fraction": 0.17, "note": "the same frames"}],
 "fingerprint": {"processor": "Example", "cores": 2, "memory_bytes": 4096, "kernel": "Linux 6.1", "file_system": "ext4",
   "sync_us": 152.0, "versions": {"Python": "3.11.7"}, "configuration": ""}}
"""

VOID = {"meta", "br", "hr", "img", "link", "input"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "style", "onload", "onclick", "onerror"}


@pytest.fixture(scope="module")
def run_page() -> str:
    return rendered(outage_run(1, values=4_000))


@pytest.fixture(scope="module")
def peers_page() -> str:
    return rendered(peers_run(1))


class Balanced(HTMLParser):
    """Fails on a tag that is not closed where it should be; collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.words.append(data)


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    return parser


def drawings(page: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # noqa: S314 - our own


def test_a_document_of_version_1_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text(GOLDEN, encoding="utf-8")
    read = read_results(path)
    assert (read.phases[0].latency.response.p999_us, read.samples[0].depth, read.figures[0].fraction) == (5, -1, 0.17)
    # Whatever version 1 has gained since has a default, and whatever it had is still there under its name.
    written = json.loads(msgspec.json.encode(read))

    def kept(old: object, new: object, at: str) -> None:
        if isinstance(old, dict):
            assert isinstance(new, dict), at
            for name, value in old.items():
                kept(value, new[name], f"{at}.{name}")
        elif isinstance(old, list):
            assert isinstance(new, list), at
            assert len(old) == len(new), at
            for number, value in enumerate(old):
                kept(value, new[number], f"{at}[{number}]")
        else:
            assert old == new, at

    kept(json.loads(GOLDEN), written, "document")


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    for number, results in enumerate((outage_run(2, values=500), peers_run(2))):
        write_results(results, tmp_path / f"{number}.json")
        assert read_results(tmp_path / f"{number}.json") == results


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a results file"),
        ("[]", "not a results file"),
        ('{"command": "run"}', "version"),
        ('{"version": 2, "entirely": "different"}', "version 2"),
        ('{"version": 1, "command": "run"}', "not a results file"),
        (GOLDEN.replace('"cores": 2', '"cores": "two"'), "cores"),
    ],
)
def test_what_is_no_document_of_this_version_is_refused_with_its_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResultsUnreadable, match=rf"other\.json.*{why}"):
        read_results(path)
    with pytest.raises(ResultsUnreadable, match="absent"):
        read_results(tmp_path / "absent.json")


def test_the_page_is_well_formed_and_its_ids_are_unique(run_page: str, peers_page: str) -> None:
    for page in (run_page, peers_page):
        parser = parsed(page)
        assert parser.open == []
        assert len(parser.ids) == len(set(parser.ids))
        assert drawings(page)


def test_the_page_loads_nothing_and_lets_only_its_own_style_and_script_work(run_page: str, peers_page: str) -> None:
    for page in (run_page, peers_page):
        assert not re.search(r"https?:|//\w|url\(|@import|fetch\(|XMLHttp|import\(", page)
        tags = parsed(page).tags
        assert not [(tag, name) for tag, attributes in tags for name in attributes if name in LOADING]
        policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy is not None
        assert policy.startswith("default-src 'none'")
        for tag in ("style", "script"):
            (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_page_tells_no_secret_path_address_or_host(run_page: str, peers_page: str) -> None:
    for page in (run_page, peers_page):
        words = html.unescape(page)
        for secret in ("correct-horse", "Corner", "/srv", "10.1.2.3", "9583", "/home", "teller", "/usr", "mosquitto"):
            assert secret not in words
        name = platform.node()
        assert len(name) < 4 or name not in words
    assert "dialect = &quot;unionpay&quot;" in run_page


def test_of_free_text_paths_addresses_and_this_host_are_withheld() -> None:
    assert told("see /var/lib/shop/x.log at 10.0.0.7:9583.") == "see (path) at (address)."
    assert told("in ~/kept/x, by [fe80::1]:80") == "in (path), by (address)"
    assert told("0.49 of 1/s, p50/p99, 3.11.7 and 2026-03-01T12:00:00Z") == (
        "0.49 of 1/s, p50/p99, 3.11.7 and 2026-03-01T12:00:00Z"
    )
    if len(platform.node()) > 3 and platform.node() != "localhost":
        assert platform.node() not in told(f"on {platform.node()}.")


def test_what_somebody_wrote_into_a_document_is_text_in_the_page() -> None:
    evil = "<script>alert(1)</script>\"'&<b>"
    results = outage_run(3, values=300)
    phases = [msgspec.structs.replace(one, name=evil) for one in results.phases]
    options = {evil: 1, "terminals": 64}
    for changed in (
        msgspec.structs.replace(results, scenario=evil, verdict=[evil], phases=phases, options=options),
        msgspec.structs.replace(results, fingerprint=msgspec.structs.replace(results.fingerprint, processor=evil)),
    ):
        page = rendered(changed)
        assert page.count("<script>") == 1
        assert "<b>" not in page
        assert parsed(page).open == []
        drawings(page)
        out = io.StringIO()
        show(changed, Console(file=out, width=200, highlight=False))
        assert "alert(1)" in out.getvalue()


def test_the_verdict_comes_first_and_says_whether_it_held(run_page: str, peers_page: str) -> None:
    for page, word in ((run_page, "Held"), (peers_page, "Did not hold")):
        body = " ".join(parsed(page).words)
        assert body.index(word) < body.index("Answers") < body.index("Percentiles of time") < body.index("Measured on")


def test_every_plot_has_words_for_it_and_a_table_beside_it(run_page: str) -> None:
    sections = re.findall(r"<section>.*?</section>", run_page, re.DOTALL)
    pictured = [one for one in sections if "<svg" in one]
    assert len(pictured) == 6
    for section in pictured:
        assert "<table>" in section.split("</figure>")[1]
        for drawing in drawings(section):
            assert drawing.get("role") == "img"
            title, desc = drawing.find("title"), drawing.find("desc")
            assert title is not None
            assert desc is not None
            assert len(desc.text or "") > 20
            assert drawing.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"


def test_nothing_is_drawn_outside_of_a_plot_and_the_text_at_the_pointer_has_every_place(run_page: str) -> None:
    for drawing in drawings(run_page):
        _, _, width, height = (float(one) for one in drawing.get("viewBox", "").split())
        for path in drawing.iter("path"):
            numbers = [float(one) for one in re.findall(r"-?[\d.]+", path.get("d", ""))]
            assert all(0 <= x <= width for x in numbers[::2])
            assert all(0 <= y <= height for y in numbers[1::2])
        rows = json.loads(drawing.get("data-hover", ""))
        assert len(rows) > 10
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_the_outage_is_shaded_where_it_was(run_page: str) -> None:
    (rate_plot,) = [
        one
        for one in drawings(run_page)
        if (one.findtext("title") == "Rate over time" and one.get("viewBox", "").startswith(f"0 0 {WIDE.width} "))
    ]
    shades = [one for one in rate_plot.iter("rect") if one.get("class") == "shade"]
    assert len(shades) == 2  # cut and kill, of steady, cut, kill, heal, drain
    left = float(shades[0].get("x", "")) - 64
    across = WIDE.width - 64 - 14
    assert left / across == pytest.approx(12 / 38, abs=0.002)
    ended = float(shades[1].get("x", "")) - 64 + float(shades[1].get("width", ""))
    assert ended / across == pytest.approx(23 / 38, abs=0.002)
    words = json.dumps([one.get("data-hover") for one in [rate_plot]])
    assert "answers: " in words


def test_where_depth_could_not_be_asked_the_line_has_a_gap() -> None:
    results = outage_run(4, values=300)
    (depth,) = [one for one in plots(results) if one.plot.title == "Queue depth over time"]
    values = [y for _, y in depth.plot.series[0].points]
    assert None in values
    assert -1 not in values
    (kill,) = [row for row in depth.rows if row[0] == "kill"]
    assert set(kill[1:]) == {"–"}


def test_many_samples_are_gathered_to_few_and_the_worst_stays_visible() -> None:
    results = outage_run(5, values=300)
    many = [
        msgspec.structs.replace(results.samples[0], at_s=n / 2, rate_per_s=100.0, p99_us=5.0) for n in range(1, 9_000)
    ]
    many[4_321] = msgspec.structs.replace(many[4_321], p99_us=9_999_999.0)
    few = gathered(many, 240)
    assert len(few) == 240
    assert max(one.p99_us for one in few) == 9_999_999.0
    assert few[-1].at_s == many[-1].at_s
    assert sum(one.rate_per_s for one in few) / 240 == pytest.approx(100.0)
    assert len(rendered(msgspec.structs.replace(results, samples=many))) < 1_000_000


def test_a_document_with_next_to_nothing_in_it_makes_a_page_and_a_text(tmp_path: Path) -> None:
    bare = msgspec.json.decode(GOLDEN, type=Results)
    for results in (bare, msgspec.structs.replace(bare, phases=[], samples=[], cost=None, figures=[], scenario="")):
        write_report(results, tmp_path / "bare.html")
        page = (tmp_path / "bare.html").read_text(encoding="utf-8")
        assert parsed(page).open == []
        assert "It held." in page
        out = io.StringIO()
        show(results, Console(file=out, width=100))
        assert "It held." in out.getvalue()


def test_a_run_that_answered_nothing_makes_a_page() -> None:
    results = outage_run(6, values=0)
    still = [msgspec.structs.replace(one, rate_per_s=0.0, p99_us=0.0, depth=0) for one in results.samples]
    page = rendered(msgspec.structs.replace(results, samples=still))
    assert parsed(page).open == []
    drawings(page)


def test_the_spectrum_of_the_page_has_the_quantiles_of_the_histogram() -> None:
    results = outage_run(7, values=3_000)
    assert results.total is not None
    response = LatencyRecorder.decoded(results.total.latency.response_hdr)
    spectrum = plots(results)[0]
    assert spectrum.plot.title == "Percentiles of time"
    (row,) = [one for one in spectrum.rows if one[0] == "99 %"]
    assert row[1] == lasting(response.at_quantiles([0.99])[0])
    shown = {round(x, 6): y for x, y in spectrum.plot.series[0].points}
    for level in (0.5, 0.75, 0.9375):
        assert shown[round(1 / (1 - level), 6)] == response.at_quantiles([level])[0]


def test_piped_the_report_is_plain_with_the_verdict_in_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    results = outage_run(8, values=1_000)
    show(results)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[0] == "HELD  holdfast-bench run outage"
    assert results.total is not None
    assert lasting(results.total.latency.response.p99_us) in out
    for phase in results.phases:
        assert phase.name in out
    assert f"{results.total.offered:,}" in out
    for wanted in ("service", "response", "CPU for 1,000", "Memory, most", "Disk for one", "Commits", "Syncs"):
        assert wanted in out
    show(peers_run(8))
    assert capsys.readouterr().out.startswith("DID NOT HOLD")


def test_figures_have_three_digits_and_a_unit_that_fits() -> None:
    assert [lasting(us) for us in (7, 812.4, 1_240, 12_400, 1_530_000, 180e6)] == [
        "7 µs", "812 µs", "1.24 ms", "12.4 ms", "1.53 s", "3 min",
    ]  # fmt: skip
    assert [size(count) for count in (0, 1_480, 148e6, 3 << 30)] == ["0 B", "1.45 KiB", "141 MiB", "3 GiB"]
    assert [digits(value) for value in (0, 0.0452, 0.61, 31_000.4)] == ["0", "0.0452", "0.61", "31,000"]


@pytest.mark.parametrize("high", [0.3, 1, 7, 99, 100, 101, 24_999, 3e9])
def test_ticks_reach_what_is_shown_and_are_few(high: float) -> None:
    ticks = [value for value, _ in linear_ticks(high, str)]
    assert ticks[0] == 0
    assert ticks[-1] >= high * 0.999
    assert 3 <= len(ticks) <= 8
    logs = [value for value, _ in log_ticks(high / 50, high, str)]
    assert logs[0] <= high / 50
    assert logs[-1] >= high
    assert len(logs) <= 10
