"""The command line: one clear line for what is wrong, the right exit code, and the same facts as the gateway tells."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.config import Address, load_config
from gateway.core.effects import Create, Write
from gateway.core.events import Committed, JournalEvent
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer, StoredMessage
from gateway.journal.keyring import load_keyring
from gateway.journal.lock import holder_of, take_lock
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.operations.installing import install
from gateway.operations.server import OperationsServer
from gateway.operations.token import read_token
from tests.operations.example_gateway import CARD, ExampleGateway, transaction


def holdfast(*arguments: object, input: str | None = None) -> Result:  # noqa: A002 - the runner's word
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A fresh installation whose operations listener nobody serves."""
    made = install(tmp_path / "gateway")
    with_port(made.config, free_port())
    return made.config


def free_port() -> int:
    async def ask() -> int:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return port

    return asyncio.run(ask())


def with_port(config_file: Path, port: int) -> None:
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(text.replace("127.0.0.1:9480", f"127.0.0.1:{port}"), encoding="utf-8")


@contextmanager
def running(config_file: Path, view: ExampleGateway | None = None) -> Iterator[ExampleGateway]:
    """Serve an in-memory gateway on the configured operations address, on a thread and an event loop of its own."""
    config = load_config(config_file, {})
    gateway = view or ExampleGateway()
    loop = asyncio.new_event_loop()
    server: list[OperationsServer] = []

    async def start() -> Address:
        server.append(OperationsServer(gateway, config.operations.listen, read_token(config.operations.token_file)))
        return await server[0].start()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield gateway
    finally:
        asyncio.run_coroutine_threadsafe(server[0].close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def journal_with(config_file: Path, count: int, *, killed: bool = False) -> None:
    """Write a real journal with `count` stored sales; `killed` leaves it as a power cut would, nothing closed."""
    config = load_config(config_file, {})

    async def run() -> None:
        committed = asyncio.Event()

        def deliver(events: Any) -> None:
            each: JournalEvent
            for each in events:
                assert isinstance(each, Committed), each
            committed.set()

        def failed(error: Exception) -> None:
            raise AssertionError(error)

        journal = SqliteJournal(
            SqliteJournalSettings(path=config.journal.path, min_free_bytes=0),
            load_keyring(config.journal.keys),
            deliver,
            failed,
            lambda: 1_800_000_000_000,
        )
        await journal.open()
        for number in range(1, count + 1):
            row = transaction(number, id=0)
            request = StoredMessage("0200", {2: CARD, 3: "000000", 4: "000000001250", 49: "156"})
            journal.write(Write(number, (Create(EntryKind.STOOD_IN, row, request, {}, Answer("0210", {39: "00"})),)))
            await committed.wait()
            committed.clear()
        if killed:
            os._exit(0)
        await journal.close()

    asyncio.run(run())


# init, config, version, decode


def test_an_act_whose_answer_is_lost_is_said_to_be_open_and_not_to_have_failed(tmp_path: Path) -> None:
    config_file = install(tmp_path / "gateway").config
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with_port(config_file, silent.getsockname()[1])

        def hang_up() -> None:
            connection, _ = silent.accept()
            connection.recv(65_536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        ran = holdfast("queue", "cancel", 17, "--why", "booked by hand", "-c", config_file)
        thread.join(10)
    assert ran.exit_code == 1
    assert "it may have been done, or be done later: look before you decide anew" in ran.stderr


def test_init_makes_a_gateway_that_config_check_finds_right(tmp_path: Path) -> None:
    made = holdfast("init", tmp_path / "shop")
    assert made.exit_code == 0
    assert "holdfast run -c" in made.stdout
    checked = holdfast("config", "check", "-c", tmp_path / "shop" / "holdfast.toml")
    assert checked.exit_code == 0
    assert "no mistakes" in checked.stdout
    assert "D17" in checked.stdout


@pytest.mark.parametrize("words", [("config", "check"), ("config", "check", "--json"), ("run",)])
@pytest.mark.parametrize("wrong", ["missing", "open to others", "a folder"])
def test_a_token_that_cannot_be_used_is_a_mistake_of_the_configuration(
    tmp_path: Path, words: tuple[str, ...], wrong: str
) -> None:
    holdfast("init", tmp_path / "shop")
    token = tmp_path / "shop" / "operations.token"
    if wrong == "open to others":
        token.chmod(0o644)
    else:
        token.unlink()
    if wrong == "a folder":
        token.mkdir()
    ran = holdfast(*words, "-c", tmp_path / "shop" / "holdfast.toml")
    assert ran.exit_code == 2
    assert "operations.token" in ran.output
    assert isinstance(ran.exception, SystemExit)


@pytest.mark.parametrize("wrong", ["missing", "open to others"])
def test_a_key_file_that_cannot_be_used_is_a_mistake_that_config_check_tells(tmp_path: Path, wrong: str) -> None:
    holdfast("init", tmp_path / "shop")
    kek = tmp_path / "shop" / "keys" / "kek.key"
    if wrong == "missing":
        kek.unlink()
    else:
        kek.chmod(0o644)
    configured = tmp_path / "shop" / "holdfast.toml"
    checked = holdfast("config", "check", "-c", configured)
    assert checked.exit_code == 2
    assert checked.stderr.startswith(f"holdfast: {configured}: journal.keys: ")
    assert "kek.key" in checked.stderr
    (mistake,) = json.loads(holdfast("config", "check", "-c", configured, "--json").stdout)["mistakes"]
    assert mistake in checked.stderr


def test_init_refuses_to_overwrite_and_says_what_is_there(tmp_path: Path) -> None:
    assert holdfast("init", tmp_path).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = holdfast("init", tmp_path)
    assert again.exit_code == 1
    assert "holdfast.toml, keys, operations.token exists already" in again.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", [["run"], ["status"], ["queue", "list"], ["config", "check"]])
def test_a_wrong_configuration_is_told_mistake_by_mistake_with_exit_code_2(
    config_file: Path, command: list[str]
) -> None:
    text = config_file.read_text(encoding="utf-8")
    text = text.replace("rate_per_s = 0", "rate_per_s = -1").replace("[log]", "[log]\ncolour = 1")
    config_file.write_text(text, encoding="utf-8")
    result = holdfast(*command, "-c", config_file)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2, lines
    assert all(line.startswith(f"holdfast: {config_file}: ") for line in lines)


def test_a_missing_configuration_says_what_makes_one(tmp_path: Path) -> None:
    result = holdfast("status", "-c", tmp_path / "holdfast.toml")
    assert result.exit_code == 2
    assert "`holdfast init` makes one" in result.stderr


def test_config_check_tells_mistakes_as_json_too(config_file: Path) -> None:
    assert told(holdfast("config", "check", "-c", config_file, "--json")) == {
        "right": True,
        "mistakes": [],
        "remarks": [],
    }
    config_file.write_text("", encoding="utf-8")
    result = holdfast("config", "check", "-c", config_file, "--json")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["mistakes"]) == 2


def test_version_names_the_product() -> None:
    assert holdfast("version").stdout.startswith("holdfast ")


def test_wrong_usage_is_exit_code_2() -> None:
    assert holdfast("no-such-command").exit_code == 2
    assert holdfast("queue", "show", "first").exit_code == 2
    assert holdfast("queue", "release", "1").exit_code == 2  # no --why


@pytest.mark.parametrize("from_stdin", [False, True])
def test_decode_shows_a_frame_from_an_argument_or_standard_input_with_the_card_masked(from_stdin: bool) -> None:
    text = b"10016919" + b"84329004582000B"
    frame = f"6000030000 603100310100 0200 40200000 00C00000 16{CARD} 000078 {text.hex()}"
    result = holdfast("decode", "-" if from_stdin else frame, "--json", input=frame if from_stdin else None)
    shown = told(result)
    assert shown["dialect"] == "unionpay"
    assert shown["mti"] == "0200"
    assert shown["fields"]["2"] == "476173******0010"
    assert shown["fields"]["42"] == "84329004582000B"


@pytest.mark.parametrize("arguments", [["xyz"], ["00"], ["--dialect", "esperanto", "0800"]])
def test_decode_says_in_a_line_what_is_wrong_with_its_input(arguments: list[str]) -> None:
    result = holdfast("decode", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("holdfast: ")
    assert "Traceback" not in result.output


def test_hot_card_prints_keyed_hashes_and_never_the_card(config_file: Path) -> None:
    result = holdfast("hot-card", "-c", config_file, input=f"{CARD}\n")
    assert result.exit_code == 0
    assert len(result.stdout.strip()) == 32
    assert result.stderr == ""
    assert holdfast("hot-card", "-c", config_file, input=f"{CARD}\n").stdout == result.stdout
    mistyped = f"{CARD[:-1]}{(int(CARD[-1]) + 1) % 10}"
    doubtful = holdfast("hot-card", "-c", config_file, input=f"{CARD}\n{mistyped}\n")
    assert doubtful.exit_code == 0
    assert len(doubtful.stdout.split()) == 2
    assert "line 2" in doubtful.stderr
    assert mistyped not in doubtful.output
    wrong = holdfast("hot-card", "-c", config_file, input=f"{CARD}x\n")
    assert wrong.exit_code == 1
    assert CARD not in wrong.output


# with a running gateway


def test_status_of_a_running_gateway_is_shown_to_people_and_programs(config_file: Path) -> None:
    with running(config_file):
        shown = holdfast("status", "-c", config_file)
        assert shown.exit_code == 0
        assert "standing-in" in shown.stdout
        assert "2 advice, 1 person; oldest 60 s" in shown.stdout
        assert not shown.stderr
        assert told(holdfast("status", "-c", config_file, "--json"))["acquirer"]["link"] == "down"


def test_the_queue_is_listed_with_amounts_in_minor_units_masked_cards_and_utc(config_file: Path) -> None:
    with running(config_file):
        listed = holdfast("queue", "list", "-c", config_file)
        header, first, second = listed.stdout.splitlines()
        assert header.split("\t")[5] == "amount (minor)"
        assert first.split("\t")[5:8] == ["1250", "156", "476173******0010"]
        assert second.split("\t")[9] == "2027-01-15T07:59:00.000Z"
        page = told(holdfast("queue", "list", "-c", config_file, "--state", "stored", "--limit", "1", "--json"))
        assert [row["id"] for row in page["transactions"]] == [1]
        assert page["next_after"] == 1


def test_an_unknown_state_is_wrong_usage_and_names_the_known(config_file: Path) -> None:
    result = holdfast("queue", "list", "-c", config_file, "--state", "lost")
    assert result.exit_code == 2
    assert "stored-cancelled" in result.stderr


def test_show_and_explain_tell_of_one_transaction(config_file: Path) -> None:
    with running(config_file):
        shown = holdfast("queue", "show", 1, "-c", config_file)
        assert shown.exit_code == 0
        assert "1250 minor units, currency 156" in shown.stdout
        assert CARD not in shown.stdout
        explained = holdfast("queue", "explain", 2, "-c", config_file)
        assert "D14" in explained.stdout
        assert told(holdfast("queue", "explain", 2, "-c", config_file, "--json"))["rule"] == "D14"
        unknown = holdfast("queue", "show", 99, "-c", config_file)
        assert (unknown.exit_code, unknown.stderr) == (1, "holdfast: there is no transaction 99\n")


@pytest.mark.parametrize("act", ["release", "cancel", "void"])
def test_steering_carries_who_and_why_to_the_gateway(config_file: Path, act: str) -> None:
    with running(config_file) as gateway:
        result = holdfast("queue", act, 1, "-c", config_file, "--who", "ann", "--why", "host confirmed")
        assert (result.exit_code, result.stdout) == (0, f"{act}: done\n")
    assert [(one.value, *rest) for one, *rest in gateway.acts] == [(act, 1, "ann", "host confirmed")]


def test_who_is_the_user_of_the_machine_unless_said_otherwise(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "shift-2")
    with running(config_file) as gateway:
        assert told(holdfast("maintenance", "on", "-c", config_file, "--why", "host upgrade", "--json"))["done"]
        assert holdfast("maintenance", "off", "-c", config_file, "--why", "done").exit_code == 0
    assert [(one.value, who) for one, _, who, _ in gateway.acts] == [
        ("maintenance-on", "shift-2"),
        ("maintenance-off", "shift-2"),
    ]


def test_an_act_that_the_gateway_refuses_fails_with_its_reason(config_file: Path) -> None:
    with running(config_file):
        result = holdfast("queue", "release", 2, "-c", config_file, "--why", "x")
        assert (result.exit_code, result.stderr) == (1, "holdfast: transaction 2 is not parked\n")


def test_steering_without_a_readable_token_fails_before_anything_is_sent(config_file: Path) -> None:
    with running(config_file) as gateway:
        (config_file.parent / "operations.token").chmod(0o644)
        result = holdfast("queue", "void", 1, "-c", config_file, "--why", "x")
        assert result.exit_code == 1
        assert "chmod 600" in result.stderr
    assert not gateway.acts


def test_an_empty_why_is_wrong_usage(config_file: Path) -> None:
    assert holdfast("queue", "void", 1, "-c", config_file, "--why", " ").exit_code == 2


def test_something_else_on_the_operations_port_is_not_taken_for_a_gateway(config_file: Path) -> None:
    config = load_config(config_file, {})

    class Nonsense(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"220 mail ready\r\n")
            transport.close()

    async def run() -> Result:
        address = config.operations.listen
        server = await asyncio.get_running_loop().create_server(Nonsense, address.host, address.port)
        try:
            return await asyncio.to_thread(holdfast, "status", "-c", config_file)
        finally:
            server.close()
            await server.wait_closed()

    result = asyncio.run(run())
    assert result.exit_code == 1
    assert "gave no answer" in result.stderr


# without a running gateway


def test_status_and_queue_are_read_from_the_journal_while_no_gateway_runs_and_say_so(config_file: Path) -> None:
    journal_with(config_file, 3)
    result = holdfast("status", "-c", config_file, "--json")
    status = told(result)
    assert "the gateway is not running" in result.stderr
    assert status["running"] is False
    assert status["queue"]["by_obligation"]["advice"] == 3
    assert status["queue"]["by_state"]["stored"] == 3
    assert status["journal"]["entries"] == 3
    text = " ".join(holdfast("status", "-c", config_file).stdout.split())
    assert "no: the gateway is not running; this was read from its journal" in text
    page = told(holdfast("queue", "list", "-c", config_file, "--after", "1", "--json"))
    assert [row["id"] for row in page["transactions"]] == [2, 3]
    shown = told(holdfast("queue", "show", 2, "-c", config_file, "--json"))
    assert shown["request"]["fields"]["2"] == "476173******0010"
    assert shown["transaction"]["state"] == "stored"
    assert holdfast("queue", "show", 99, "-c", config_file).exit_code == 1
    assert not told(holdfast("queue", "list", "-c", config_file, "--state", "parked", "--json"))["transactions"]


@pytest.mark.skipif(sys.platform != "linux", reason="another system does not tell who holds a lock")
def test_a_gateway_that_listens_elsewhere_is_not_said_to_be_stopped(config_file: Path, tmp_path: Path) -> None:
    journal_with(config_file, 1)
    path = load_config(config_file, {}).journal.path
    lock = take_lock(path)
    try:
        for command in (["status"], ["queue", "list"], ["queue", "explain", 1], ["maintenance", "off", "--why", "x"]):
            result = holdfast(*command, "-c", config_file)
            said = " ".join((result.stderr + result.stdout).split())
            assert f"process {os.getpid()} holds the journal" in said, command
            assert "not running" not in said
            assert "holdfast run" not in said
    finally:
        lock.release()
    (tmp_path / "link").symlink_to(path)
    assert holder_of(path) is None
    lock = take_lock(path)
    assert holder_of(tmp_path / "link") == os.getpid()
    lock.release()


def test_reading_the_journal_of_a_stopped_gateway_changes_nothing_in_it(config_file: Path) -> None:
    journal_with(config_file, 1)
    path = load_config(config_file, {}).journal.path
    before = path.read_bytes()
    assert holdfast("status", "-c", config_file).exit_code == 0
    assert holdfast("queue", "show", 1, "-c", config_file).exit_code == 0
    assert path.read_bytes() == before


def test_the_journal_of_a_killed_gateway_can_be_read_before_the_gateway_has_recovered_it(config_file: Path) -> None:
    code = f"from tests.test_cli import *; journal_with(Path({str(config_file)!r}), 3, killed=True)"
    assert python("-c", code, cwd=Path(__file__).parents[1]).returncode == 0
    assert told(holdfast("status", "-c", config_file, "--json"))["queue"]["by_state"]["stored"] == 3
    assert len(told(holdfast("queue", "list", "-c", config_file, "--json"))["transactions"]) == 3


def test_a_gateway_that_has_never_run_has_no_queue_to_read(config_file: Path) -> None:
    result = holdfast("queue", "list", "-c", config_file)
    assert result.exit_code == 1
    assert "has never run" in result.stderr


def test_a_journal_cannot_be_read_with_other_keys(config_file: Path, tmp_path: Path) -> None:
    journal_with(config_file, 1)
    keys = load_config(config_file, {}).journal.keys
    other = install(tmp_path / "other").keys
    keys.rename(tmp_path / "aside")
    other.rename(keys)
    result = holdfast("queue", "list", "-c", config_file)
    assert result.exit_code == 1
    assert "key" in result.stderr


def test_what_only_a_running_gateway_can_do_says_how_to_start_it(config_file: Path) -> None:
    for command in (
        ["queue", "explain", "1"],
        ["queue", "void", "1", "--why", "x"],
        ["maintenance", "on", "--why", "x"],
    ):
        result = holdfast(*command, "-c", config_file)
        assert result.exit_code == 1
        assert "not running" in result.stderr
        assert f"holdfast run -c {config_file}" in result.stderr


# as a process


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return python("-m", "gateway", *(str(argument) for argument in arguments), **options)


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **options)  # noqa: S603


def test_the_module_runs_as_the_command() -> None:
    helped = process("--help")
    assert helped.returncode == 0
    for command in ("init", "run", "status", "queue", "maintenance", "decode", "config", "version"):
        assert command in helped.stdout


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], ["aiohttp", "pydantic", "cryptography", "structlog", "rich", "msgspec", "asyncio"]),
        (["decode", "--help"], ["aiohttp", "cryptography", "structlog"]),
        (["decode", "08000000000000000000"], ["aiohttp", "cryptography", "structlog", "aiosqlite"]),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_need(arguments: list[str], heavy: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["holdfast", *{arguments!r}]
from gateway.cli import main
try:
    main()
except SystemExit:
    pass
print(sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""
    result = python("-c", code)
    assert result.stderr.splitlines()[-1] == "[]", result.stderr


def test_an_expected_error_shows_no_traceback_in_the_real_process(tmp_path: Path) -> None:
    result = process("status", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_listed_state_is_one_that_owes_unless_asked_otherwise(config_file: Path) -> None:
    rows = [transaction(1), transaction(2, State.APPROVED), transaction(3, State.PARKED, reason="declined")]
    with running(config_file, ExampleGateway(rows=rows)):
        page = told(holdfast("queue", "list", "-c", config_file, "--json"))
        assert [row["state"] for row in page["transactions"]] == ["stored", "parked"]
        everything = ["--state", "approved", "--state", "stored", "--state", "parked"]
        page = told(holdfast("queue", "list", "-c", config_file, "--json", *everything))
        assert len(page["transactions"]) == 3


def test_a_standard_output_without_room_is_told_in_a_line(tmp_path: Path) -> None:
    install(tmp_path / "shop")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ran = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "gateway", "config", "check", "-c", str(tmp_path / "shop" / "holdfast.toml")],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr == "holdfast: not all could be shown, what was asked for may be done: No space left on device\n"


@pytest.mark.parametrize("words", [("keys", "rotate", "account-epoch", "--why", "yearly"), ("run",)])
def test_a_lock_that_cannot_be_made_is_told_in_a_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    install(tmp_path / "shop")
    (tmp_path / "shop" / "journal.sqlite3.lock").mkdir()
    ran = holdfast(*words, "-c", tmp_path / "shop" / "holdfast.toml")
    assert ran.exit_code == 1
    assert isinstance(ran.exception, SystemExit), "no traceback"
    assert "journal.sqlite3.lock cannot be made or opened: Is a directory" in ran.output
