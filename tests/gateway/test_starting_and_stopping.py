"""One gateway to a journal, with its own keys only; a stop that is asked for leaves nothing open."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.child import GatewayBroken
from bench.till import TEST_CARDS, Prepared
from bench.usage import family
from gateway.journal.keyring import create_keyring
from tests.gateway.shop import Counter, Shop, comes_true, open_shop, outcome, play, setup

STOPS_WITHIN_S = 8.0
"""One second to drain, two for the last writes, and what a busy machine takes."""


def test_a_second_gateway_on_the_same_journal_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            before = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(before)).response == "00"
            second = await shop.holdfast("run")
            assert second.code == 1
            assert "another gateway holds" in second.err
            assert "journal.sqlite3" in second.err
            assert "Traceback" not in second.err
            assert shop.gateway.running
            after = terminal.till.sale(1000, TEST_CARDS[1])
            assert (await terminal.ask(after)).response == "00"
            assert shop.host.acts(after) == ["0200 booked"]

    play(story())


def _other_kek(keys: Path) -> None:
    (keys / "kek.key").write_bytes(bytes(range(32)))


def _no_kek(keys: Path) -> None:
    (keys / "kek.key").unlink()


def _short_kek(keys: Path) -> None:
    (keys / "kek.key").write_bytes(b"short")


def _no_keyring(keys: Path) -> None:
    (keys / "keyring.json").unlink()


def _no_folder(keys: Path) -> None:
    shutil.rmtree(keys)


def _other_journals(keys: Path) -> None:
    shutil.rmtree(keys)
    create_keyring(keys)


def _readable_kek(keys: Path) -> None:
    (keys / "kek.key").chmod(0o644)


def _readable_keyring(keys: Path) -> None:
    (keys / "keyring.json").chmod(0o640)


def _folder_for_kek(keys: Path) -> None:
    (keys / "kek.key").unlink()
    (keys / "kek.key").mkdir()


WRONG_KEYS = {
    _folder_for_kek: ["kek.key is a folder, and should be a file"],
    _other_kek: ["kek.key is not the key-encryption key"],
    _no_kek: ["kek.key cannot be read"],
    _short_kek: ["kek.key must hold 32 bytes"],
    _no_keyring: ["keyring.json cannot be read"],
    _no_folder: ["journal.keys", "holdfast init"],
    _other_journals: ["key 1 of keyring", "is not the one that", "journal.sqlite3 was written with"],
    _readable_kek: ["kek.key is open to others", "chmod 0600"],
    _readable_keyring: ["keyring.json is open to others", "chmod 0600"],
}


def test_with_wrong_missing_or_exposed_keys_it_refuses_to_start_and_says_which(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            told = await terminal.ask(sale)
            assert await shop.gateway.stop() == 0
            whole = (tmp_path / "journal.sqlite3").read_bytes()
            for spoil, words in WRONG_KEYS.items():
                keys = tmp_path / spoil.__name__
                shutil.copytree(tmp_path / "keys", keys)
                assert stat.S_IMODE((keys / "kek.key").stat().st_mode) == 0o600
                spoil(keys)
                ran = await shop.holdfast("run", environment={"HOLDFAST_JOURNAL__KEYS": str(keys)})
                assert ran.code in (1, 2), spoil.__name__
                for word in words:
                    assert word in ran.err, f"{spoil.__name__}: {ran.err}"
                assert "Traceback" not in ran.err
                assert "terminals:" not in ran.out
                assert (tmp_path / "journal.sqlite3").read_bytes() == whole
            await shop.start()
            assert outcome(await terminal.ask(sale)) == outcome(told)

    play(story())


def test_a_port_that_is_taken_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", shop.setup.terminal_port)
            async with taken:
                ran = await shop.holdfast("run")
            assert ran.code == 1
            assert str(shop.setup.terminal_port) in ran.err
            assert "Traceback" not in ran.err
            await shop.start()

    play(story())


async def _sell_until_closed(counter: Counter, told: dict[str, tuple[Counter, Prepared, str]], number: int) -> None:
    """Sell one after another; an empty answer where the line broke instead."""
    while True:
        sale = counter.till.sale(1000, TEST_CARDS[number % len(TEST_CARDS)])
        try:
            answer = (await counter.ask(sale)).response
        except OSError:
            told[sale.key] = (counter, sale, "")
            return
        told[sale.key] = (counter, sale, answer)
        if answer != "00":
            return


def _acknowledged(told: dict[str, tuple[Counter, Prepared, str]]) -> int:
    return sum(1 for _, _, answer in told.values() if answer == "00")


@pytest.mark.parametrize("online", [True, False], ids=["online", "standing in"])
def test_sigterm_under_load_admits_no_more_answers_what_runs_and_leaves_nothing_to_recover(
    tmp_path: Path, online: bool
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            if online:
                await shop.host.set_behaviour(Behaviour(mode=Mode.LATE, delay_ms=200))
            else:
                await shop.host_leaves()
            told: dict[str, tuple[Counter, Prepared, str]] = {}
            counters = [shop.terminal(f"T{number:07d}") for number in range(1, 21)]
            async with asyncio.TaskGroup() as group:
                for number, counter in enumerate(counters):
                    await counter.connect()
                    group.create_task(_sell_until_closed(counter, told, number))

                async def loaded() -> bool:
                    in_flight = await _in_flight(shop) if online else 10
                    return _acknowledged(told) >= 60 and in_flight >= 10

                await comes_true("there is load", loaded)
                with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/journal.sqlite3?mode=ro", uri=True)) as other:
                    # With somebody else about, SQLite does not put the log into the file by itself when we close.
                    other.execute("SELECT count(*) FROM tx").fetchall()
                    assert await shop.gateway.stop() == 0
                    wal = tmp_path / "journal.sqlite3-wal"
                    assert not wal.exists() or wal.stat().st_size == 0
            # 09 and not 96: so soon after its start it does not know what was asked before (D3)
            assert {answer for _, _, answer in told.values()} <= {"00", "09", ""}
            if online:
                for _, sale, answer in told.values():
                    assert shop.host.net(sale) == (answer == "00"), f"told {answer!r}: {shop.host.acts(sale)}"

            await shop.host_returns()
            await shop.start()
            await shop.drained()
            assert not shop.logged("recovering")
            for counter, sale, answer in told.values():
                again = await counter.ask(sale)
                assert again.response == "00", "what was not admitted is sold now; what was is told again"
                assert shop.host.net(sale) == 1
                assert len(shop.host.arrivals(sale)) == 1, (answer, shop.host.acts(sale))

    play(story())


async def _in_flight(shop: Shop) -> int:
    return int((await shop.status())["acquirer"]["in_flight"])


def test_a_stop_with_a_silent_acquirer_still_answers_everybody_and_owes_durably(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            counters = [shop.terminal(f"T{number:07d}") for number in range(1, 6)]
            sales = [counter.till.sale(1000, TEST_CARDS[0]) for counter in counters]
            await shop.host.set_mode(Mode.SILENT)
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(counter.ask(sale)) for counter, sale in zip(counters, sales, strict=True)]
                await comes_true("the acquirer has them", lambda: len(shop.host.messages) == len(sales))
                assert await shop.gateway.stop() == 0
            assert {(await one).response for one in asked} == {"68"}
            await shop.host_returns()
            await shop.start()
            await shop.drained()
            assert not shop.logged("recovering")
            assert [shop.host.acts(sale) for sale in sales] == [["0200 booked", "0400 reversed"]] * len(sales)

    play(story())


def test_a_stop_in_the_middle_of_a_replay_is_bounded_and_the_rest_follows_after_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, setup(overrides={"gateway": {"shutdown_drain_s": 1}})) as shop:
            counters = [shop.terminal(f"T{number:07d}") for number in range(1, 11)]
            await shop.host_leaves()
            sales = [[counter.till.sale(1000, TEST_CARDS[turn]) for counter in counters] for turn in range(8)]
            for turn in sales:
                told = await asyncio.gather(*(counter.ask(sale) for counter, sale in zip(counters, turn, strict=True)))
                assert {one.response for one in told} == {"00"}
            await shop.host.set_behaviour(Behaviour(mode=Mode.LATE, delay_ms=400))
            await comes_true("the replay is under way", lambda: len(shop.host.messages) >= 5)
            began = time.monotonic()
            assert await shop.gateway.stop() == 0
            assert time.monotonic() - began < STOPS_WITHIN_S
            # What was under way is finished; nothing new is begun, so nothing has to be sent twice.
            sent = [message.fields[41] + message.fields[11] for message in shop.host.messages]
            assert 5 <= len(set(sent)) < 80
            assert sum(len(shop.host.arrivals(sale)) for turn in sales for sale in turn) == len(set(sent))
            wal = tmp_path / "journal.sqlite3-wal"
            assert not wal.exists() or wal.stat().st_size == 0

            await shop.host_returns()
            await shop.start()
            await shop.drained()
            assert not shop.logged("recovering")
            for lane in zip(*sales, strict=True):
                keys = [sale.key for sale in lane]
                assert [event.key for event in shop.host.recent if event.act == "booked" and event.key in keys] == keys

    play(story())


def test_a_gateway_that_cannot_start_says_so_once_and_ends(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            (tmp_path / "journal.sqlite3").write_bytes(b"this is no journal" * 500)
            with pytest.raises(GatewayBroken, match=r"journal\.sqlite3 is not a journal"):
                await shop.start()
            assert not shop.gateway.running

    play(story())


# --- what lies around the process ----------------------------------------------------------------------------------

_LITTLE = 4096


@contextlib.contextmanager
def spawned(shop: Shop, *, out: int = -1, err: int = -1, prefix: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """The shop's gateway with descriptors of the test's choice; `prefix` is what a shell does before."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    command = [sys.executable, "-m", "gateway", "run", "-c", str(shop.gateway.config)]
    with subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", f'{prefix} exec "$@" {"" if err != -2 else "2>&-"}', "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if out < 0 else out,
        stderr=subprocess.DEVNULL if err < 0 else err,
        env=environment,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


async def _open(shop: Shop) -> None:
    await comes_true("it is ready", shop.gateway.ready)
    await shop.link_is("up")


async def _ended(child: subprocess.Popen[bytes]) -> int | None:
    await comes_true("the process ends", lambda: child.poll() is not None)
    return child.returncode


def _small_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _LITTLE)
    return reading, writing


@pytest.mark.parametrize("log", ["its reader has left", "nobody reads it", "a full device", "closed"])
def test_a_log_that_cannot_be_written_never_touches_payments(tmp_path: Path, log: str) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            reading, writing = _small_pipe()
            full = os.open("/dev/full", os.O_WRONLY)
            err = {"a full device": full, "closed": -2}.get(log, writing)
            with spawned(shop, err=err) as child:
                os.close(writing)
                await _open(shop)
                if log == "its reader has left":
                    os.close(reading)
                terminal = shop.terminal()
                sale = terminal.till.sale(1000, TEST_CARDS[0])
                assert (await terminal.ask(sale)).response == "00"
                for number in range(40):  # each is an alarm
                    reused = terminal.till.sale(2000 + number, TEST_CARDS[1], stan=sale.stan)
                    assert (await terminal.ask(reused)).response != "00"
                assert (await terminal.ask(terminal.till.sale(1100, TEST_CARDS[2]))).response == "00"
                await shop.host_leaves()
                assert (await terminal.ask(terminal.till.sale(1200, TEST_CARDS[3]))).response == "00"
                await shop.host_returns()
                await shop.drained()
                child.terminate()
                assert await _ended(child) == 0
            os.close(full)
            if log != "its reader has left":
                os.close(reading)

    play(story())


@pytest.mark.parametrize("read", [False, True], ids=["the log cannot be written", "the log is read"])
def test_with_its_journal_in_doubt_the_process_ends_with_1_whatever_becomes_of_its_log(
    tmp_path: Path, read: bool
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            reading, writing = os.pipe()
            with spawned(shop, err=writing) as child:
                os.close(writing)
                await _open(shop)
                if not read:
                    os.close(reading)
                for each in family(child.pid):
                    resource.prlimit(each, resource.RLIMIT_FSIZE, (0, 0))  # as a disk that fails
                terminal = shop.terminal()
                with contextlib.suppress(OSError):
                    assert (await terminal.ask(terminal.till.sale(1000, TEST_CARDS[0]))).response != "00"
                assert await _ended(child) == 1
            if read:
                assert b"journal in doubt: stopping" in os.read(reading, 65_536)
                os.close(reading)

    play(story())


def test_sighup_without_tls_is_noted_and_ends_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            os.kill(shop.gateway.pid, signal.SIGHUP)
            await comes_true("it is noted", lambda: len(shop.logged(_SIGHUP_IGNORED)) == 1)
            terminal = shop.terminal()
            assert (await terminal.ask(terminal.till.sale(1000, TEST_CARDS[0]))).response == "00"

    play(story())


_SIGHUP_IGNORED = "SIGHUP ignored: no line has TLS, there is nothing to read anew"


def test_standard_output_that_nobody_reads_ends_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            reading, writing = os.pipe()
            os.close(reading)
            with spawned(shop, out=writing) as child:
                os.close(writing)
                await _open(shop)
                terminal = shop.terminal()
                assert (await terminal.ask(terminal.till.sale(1000, TEST_CARDS[0]))).response == "00"
                child.terminate()
                assert await _ended(child) == 0

    play(story())


def test_it_raises_its_limit_of_open_files_as_far_as_it_may(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            with (tmp_path / "gateway.log").open("wb") as log, spawned(
                shop, err=log.fileno(), prefix="ulimit -Sn 256; ulimit -Hn 1000;"
            ) as child:  # fmt: skip
                await _open(shop)
                assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (1000, 1000)
                assert "open files" in shop.logged("worth a look")[-1]["remark"]

    play(story())


def test_a_clean_stop_says_so_and_raises_no_alarm_about_the_acquirer(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            assert await shop.gateway.stop() == 0
            assert shop.log()[-1]["event"] == "stopped"
            assert shop.log()[-1]["level"] == "info"
            assert not shop.logged("acquirer-away")

    play(story())


def test_another_name_of_the_journal_is_the_same_journal(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            other = tmp_path / "other"
            other.mkdir()
            (other / "journal.sqlite3").symlink_to(tmp_path / "journal.sqlite3")
            environment = {"HOLDFAST_JOURNAL__PATH": str(other / "journal.sqlite3")}
            second = await shop.holdfast("run", environment=environment)
            assert second.code == 1
            assert "another gateway holds" in second.err
            assert shop.gateway.running

    play(story())


@pytest.mark.parametrize("instead", [False, True], ids=["removed", "replaced"])
def test_without_its_lock_file_it_takes_no_new_sales_and_is_not_ready(tmp_path: Path, instead: bool) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(sale)).response == "00"
            (tmp_path / "journal.sqlite3.lock").unlink()
            if instead:
                (tmp_path / "journal.sqlite3.lock").touch()

            async def told() -> bool:
                code, body = await shop.get("/readyz")
                return code == 503 and "journal.sqlite3.lock was removed or replaced" in body

            await comes_true("/readyz says why", told)
            assert (await terminal.ask(terminal.till.sale(1100, TEST_CARDS[1]))).response == "96"
            assert (await terminal.ask(sale)).response == "00", "what is known is answered"
            assert await shop.gateway.stop() == 0
            await shop.start()

    play(story())
