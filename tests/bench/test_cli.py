"""The commands: exit statuses that can be relied on, and the story from end to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bench import serving
from bench.cli import app
from bench.ports import free_ports
from bench.records import LedgerEvent, TerminalEvent
from bench.till import TEST_CARDS, Till
from gateway.config import load_config
from gateway.operations.installing import install
from protocol.iso8583.dialect import load_dialect

SENT = TerminalEvent(
    at=0, event="sent", business="sale", terminal="T", merchant="M", stan="000001", key="M/T/000001", mti="0200"
)
TOLD = TerminalEvent(
    at=0,
    event="answered",
    business="sale",
    terminal="T",
    merchant="M",
    stan="000001",
    key="M/T/000001",
    mti="0210",
    response="00",
)
BOOKED = LedgerEvent(at=0, act="booked", business="sale", mti="0200", terminal="T", merchant="M", key="M/T/000001")


@pytest.mark.parametrize(("ledger", "status"), [([BOOKED], 0), ([], 1)])
def test_check_tells_by_its_exit_status_whether_records_are_clean(
    tmp_path: Path, ledger: list[LedgerEvent], status: int
) -> None:
    encode = msgspec.json.Encoder().encode_lines
    (tmp_path / "history.jsonl").write_bytes(encode([SENT, TOLD]))
    (tmp_path / "ledger.jsonl").write_bytes(encode(ledger))
    done = CliRunner().invoke(app, ["check", str(tmp_path / "history.jsonl"), str(tmp_path / "ledger.jsonl")])
    assert done.exit_code == status
    assert ("M/T/000001" in done.output) == bool(status)


@pytest.mark.parametrize(
    "arguments",
    [
        ["acquirer", "--ledger", "x", "--mode", "sulking"],
        ["acquirer", "--ledger", "x", "--listen", "nowhere"],
        ["terminals", "127.0.0.1:notaport"],
        ["outage", "--keep", str(Path(__file__).parent)],
        ["outage", "--keep", __file__],
        ["soak", "--keep", str(Path(__file__) / "new")],
        ["run", "--json", str(Path(__file__) / "results.json")],
        ["run", "closed", "--rate", "5"],
        ["run", "drain", "--seconds", "5"],
        ["run", "stored", "--backlog", "5"],
        ["run", "stored", "--acquirer", "there"],
    ],
)
def test_a_wrong_argument_is_refused_before_anything_starts(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["acquirer", "--ledger", "x", "--dialect", "bogus"],
        ["terminals", "127.0.0.1:1", "--dialect", "bogus"],
        ["outage", "--dialect", "bogus"],
        ["outage", "--acquirer-dialect", "bogus"],
    ],
)
def test_a_dialect_that_is_not_there_is_one_line(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert done.output.startswith("holdfast-bench: bogus: no such dialect")
    assert len(done.output.splitlines()) == 1


def test_terminals_say_that_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_TELLS_EACH_S", 1.0)
    (port,) = free_ports(1)
    done = CliRunner().invoke(app, ["terminals", f"127.0.0.1:{port}", "--count", "1", "--seconds", "2"])
    assert done.exit_code == 1
    assert done.stderr.count(f"nobody listens at 127.0.0.1:{port}") >= 1


def test_the_simulators_fit_a_new_shop_by_default(tmp_path: Path) -> None:
    config = load_config(install(tmp_path / "shop").config)
    defaults = {
        name: {option.name: option.default for option in command.params}
        for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    assert defaults["acquirer"]["dialect"] == config.acquirer.dialect
    assert defaults["acquirer"]["listen"] == str(config.acquirer.endpoints[0])
    assert defaults["terminals"]["dialect"] == config.terminals[0].dialect
    assert defaults["terminals"]["amount_max"] == config.standin.floor_limit_minor
    sale = Till(load_dialect("unionpay"), "T0000001").sale(100, TEST_CARDS[0]).message.fields
    assert sale[22][:2] in config.standin.entry_modes
    assert sale[3][:2] in config.standin.processing_codes
    assert sale[49] in config.standin.currencies


def tell(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "story"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)  # noqa: S603


def test_the_story_comes_true_and_ends_by_itself_where_nobody_watches(tmp_path: Path) -> None:
    told = tell(tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "The story came true." in told.stdout
    assert "NO " not in told.stdout
    assert "411111******1111" in told.stdout
    assert "4111111111111111" not in told.stdout


def test_the_story_does_not_touch_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    mine = tmp_path / ".demo" / "mine"
    mine.parent.mkdir()
    mine.write_text("precious")
    assert tell(tmp_path).returncode == 1
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("command", [("run", "stored"), ("limits",), ("peers",), ("outage",)])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    told = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "none" / "results.json")])
    assert told.exit_code == 2
    assert "Invalid value for '--json'" in told.output
