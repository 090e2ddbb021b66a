"""What the pages under docs/ tell people to write is right, and does what they say."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.operations import metrics
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.rules import OriginalForm, Period

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "add-your-terminal.md"
PAN = "6212345678900000003"
SALE = Message(
    "0200",
    {
        2: PAN,
        3: "000000",
        4: "000000012345",
        7: "0301120000",
        11: "000042",
        13: "0301",
        22: "021",
        35: PAN + "=30122010000012300",
        41: "10000001",
        42: "100000000000001",
        49: "156",
        57: "b3c9b9a6",
        59: "08715",
        60: "22" + "000001" + "1" * 52,
        62: "000017",
    },
    bytes.fromhex("6000030000"),
    bytes.fromhex("6031003101000000"),
)


def page_toml() -> str:
    found = re.search(
        r"kestrel-k2.toml: begin -->\n```toml\n(.*?)```\n<!-- kestrel-k2.toml: end", PAGE.read_text(), re.DOTALL
    )
    assert found, "the page's TOML stands between its marks"
    return found[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kestrel-k2.toml"
    path.write_text(page_toml(), encoding="utf-8")
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.output


def test_a_make_of_terminal_is_added_in_fewer_than_forty_lines() -> None:
    assert 0 < len(page_toml().splitlines()) < 40


def test_the_pages_dialect_differs_from_unionpay_in_what_the_page_says(file: Path) -> None:
    dialect, base = load_dialect(str(file)), load_dialect("unionpay")
    assert (dialect.header_bytes, dialect.framing.length) == (8, "ascii-4")
    assert set(dialect.fields) == set(base.fields) - {58} | {7, 57, 90}
    assert dialect.fields[60] == replace(base.fields[60], length=60, pad=dialect.fields[22].pad, pad_nibble="f")
    assert (dialect.terminal.period, dialect.terminal.date_field) == (Period.DATE, 13)
    assert dialect.terminal.original is dialect.host.original is OriginalForm.DE_90
    assert (dialect.host.repeat_request, dialect.host.repeat_advice, dialect.host.repeat_reversal) == (
        False,
        True,
        True,
    )
    assert dialect.host.reason_field == 0


def test_a_frame_of_the_pages_dialect_comes_back_the_same_and_has_its_padding(file: Path) -> None:
    codec = load_dialect(str(file)).codec
    frame = codec.encode(SALE)
    assert codec.decode(frame) == SALE
    assert "f021" in frame.hex()
    assert codec.encode(codec.decode(frame)) == frame


def test_a_reversal_of_the_pages_dialect_names_its_sale_in_field_90(file: Path) -> None:
    codec = load_dialect(str(file)).codec
    reversal = replace(
        SALE, mti="0400", fields={**SALE.fields, 11: "000043", 90: "0200" + "000042" + "0301120000" + "0" * 22}
    )
    assert codec.decode(codec.encode(reversal)) == reversal


def test_the_commands_of_the_page_accept_its_dialect(file: Path, tmp_path: Path) -> None:
    assert run("dialect", "check", file) == (
        0,
        f"{file}: no mistakes; dialect kestrel-k2, extends unionpay, 38 fields\n",
    )
    dialect = load_dialect(str(file))
    frame = dialect.framing.wrap(dialect.codec.encode(SALE)).hex()
    capture = tmp_path / "k2-frames.txt"
    capture.write_text(f"> {frame}\n", encoding="utf-8")
    code, output = run("dialect", "learn", capture, "--dialect", file)
    assert (code, output.splitlines()[0]) == (0, f"{file} fits 1 of 1 frames")
    for command in (("dialect", "show", file), ("decode", "--dialect", file, frame)):
        code, output = run(*command)
        assert code == 0
        assert "Basket" in output
        assert PAN not in output


def test_learning_from_frames_of_the_page_finds_the_front_that_the_page_writes(file: Path, tmp_path: Path) -> None:
    dialect = load_dialect(str(file))
    frame = dialect.framing.wrap(dialect.codec.encode(SALE)).hex()
    capture = tmp_path / "k2-frames.txt"
    capture.write_text(f"{frame}\n" * 3, encoding="utf-8")
    code, output = run("dialect", "learn", capture)
    assert code == 0
    assert "header_bytes = 8" in output
    assert 'length = "ascii-4"' in output


def test_no_line_of_a_page_is_longer_than_the_house_allows() -> None:
    for page in DOCS.glob("*.md"):
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 120 or line.startswith("|"), f"{page.name}, line {number}"


def exported() -> set[str]:
    """The names of all metrics as Prometheus shows them, out of the module that makes them."""
    endings = {"_counter": "_total", "CounterMetricFamily": "_total", "InfoMetricFamily": "_info"}
    makers = {*endings, "_gauge", "_chosen", "GaugeMetricFamily"}
    module = Path(metrics.__file__ or "").read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers:
            match node.args[0]:
                case ast.Constant(value=str(name)):
                    found.add(name + endings.get(node.func.id, ""))
    return found


def test_the_operators_page_names_every_metric_and_no_other() -> None:
    page = (DOCS / "operating.md").read_text(encoding="utf-8")
    table = page.partition("<!-- metrics: begin -->")[2].partition("<!-- metrics: end -->")[0]
    assert len(exported()) > 30
    assert set(re.findall(r"^\| `(holdfast_[a-z_]+)` \|", table, re.MULTILINE)) == exported()
    assert set(re.findall(r"\bholdfast_[a-z_]+", page)) <= exported()


def test_every_link_between_pages_leads_to_a_page_and_a_heading_in_it() -> None:
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md")]
    headings = {page: set(map(anchor, re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE))) for page in pages}
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    for page, link in links:
        if "://" not in link:
            name, _, heading = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not heading or heading in headings[target], f"{page.name}: {link}"


def anchor(heading: str) -> str:
    """What a heading is called in links to it."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
