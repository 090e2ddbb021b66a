"""A full disk: refused before acknowledgement, nothing lost, and service resumes by itself (INV-1, INV-9).

The journal lies on a small tmpfs that the test mounts, fills and enlarges: as root only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.acquirer import Behaviour, Mode
from bench.till import TEST_CARDS, Prepared
from tests.gateway.shop import Counter, Outcome, Shop, comes_true, open_shop, outcome, play, setup

RESUMES_WITHIN_S = 5.0
_SMALL_KIB = 4 * 1024
_LARGE_KIB = 16 * 1024


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted tmpfs."""

    folder: Path

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave that much free at most."""
        with (self.folder / "ballast").open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while self.free_bytes() > leave_bytes or not leave_bytes:
                ballast.write(bytes(4096))

    def free_bytes(self) -> int:
        """What is left."""
        at = os.statvfs(self.folder)
        return at.f_bavail * at.f_frsize

    def enlarge(self) -> None:
        """Give space back without touching a file."""
        _mount("-o", f"remount,size={_LARGE_KIB}k", str(self.folder))


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk of its own for a journal."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={_SMALL_KIB}k,mode=700", "tmpfs", str(folder))
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607


async def _sell_until_refused(terminal: Counter, sold: list[tuple[Prepared, Outcome]]) -> Prepared:
    """Sell until a sale is told 96, and return that one."""
    for number in range(2_000):
        sale = terminal.till.sale(1_000 + number % 40, TEST_CARDS[number % len(TEST_CARDS)])
        told = outcome(await terminal.ask(sale))
        if told.response == "96":
            return sale
        assert told.response == "00"
        sold.append((sale, told))
    raise AssertionError("the disk never became full")


async def _not_ready(shop: Shop, word: str) -> bool:
    code, body = await shop.get("/readyz")
    if code != 503:
        return False
    told = json.loads(body)
    return not told["ready"] and any(word in reason for reason in told["reasons"])


@pytest.mark.parametrize(
    ("min_free_bytes", "word", "online"),
    [(0, "the disk is full", False), (1024 * 1024, "are kept for outcomes", True)],
    ids=["to the last byte, standing in", "to the reserve, online"],
)
def test_on_a_full_disk_sales_are_refused_with_96_nothing_is_lost_and_service_resumes_by_itself(
    tmp_path: Path,
    disk: SmallDisk,
    min_free_bytes: int,
    word: str,
    online: bool,
    record_property: Callable[[str, object], None],
) -> None:
    async def story() -> None:
        journal = {"path": str(disk.folder / "journal.sqlite3"), "min_free_bytes": min_free_bytes}
        async with open_shop(tmp_path, setup(overrides={"journal": journal})) as shop:
            terminal = shop.terminal()
            sold: list[tuple[Prepared, Outcome]] = []
            sale = terminal.till.sale(1_000, TEST_CARDS[0])
            sold.append((sale, outcome(await terminal.ask(sale))))
            if not online:
                await shop.host_leaves()
            disk.fill(leave_bytes=min_free_bytes // 2)
            refused = await _sell_until_refused(terminal, sold)
            seen = len(shop.host.messages)
            assert (await terminal.ask(refused)).response == "96"
            assert (await terminal.ask(terminal.till.sale(1_000, TEST_CARDS[1]))).response == "96"
            await comes_true("/readyz says why", lambda: _not_ready(shop, word))
            assert (await shop.status())["journal"]["writable"] is False
            assert await shop.metric("holdfast_ready") == 0
            assert len(shop.host.messages) == seen, "what is refused is not forwarded"
            for sale, told in sold[-3:]:
                assert outcome(await terminal.ask(sale)) == told, "a retry needs no room"
            assert shop.gateway.running

            disk.enlarge()

            async def sells() -> bool:
                again = outcome(await terminal.ask(refused))
                if again.response == "00":
                    sold.append((refused, again))
                return again.response == "00"

            resumed_s = await comes_true("sales are taken again", sells, within_s=30)
            ready_s = resumed_s + await comes_true("it is ready", shop.gateway.ready, within_s=30)
            record_property("resumed_after_s", round(resumed_s, 3))
            print(f"resumed {resumed_s:.2f} s after space returned, ready after {ready_s:.2f} s")
            assert ready_s < RESUMES_WITHIN_S

            await shop.kill()
            await shop.start(online=False)
            for sale, told in sold:
                assert outcome(await terminal.ask(sale)) == told
            await shop.host_returns()
            await shop.drained()
            for sale, _ in sold:
                assert shop.host.net(sale) == 1
                assert len(shop.host.arrivals(sale)) == 1

    play(story())


def test_a_gateway_started_on_a_full_disk_refuses_sales_and_resumes_too(tmp_path: Path, disk: SmallDisk) -> None:
    async def story() -> None:
        journal = {"path": str(disk.folder / "journal.sqlite3"), "min_free_bytes": 0}
        async with open_shop(tmp_path, setup(overrides={"journal": journal})) as shop:
            terminal = shop.terminal()
            await shop.host_leaves()
            disk.fill()
            sold: list[tuple[Prepared, Outcome]] = []
            refused = await _sell_until_refused(terminal, sold)
            await shop.kill()
            disk.fill()
            assert disk.free_bytes() == 0
            await shop.start(online=False)
            assert (await terminal.ask(refused)).response == "96"
            await comes_true("/readyz says why", lambda: _not_ready(shop, "the disk is full"))
            for sale, told in sold:
                assert outcome(await terminal.ask(sale)) == told
            disk.enlarge()
            await comes_true("it is ready", shop.gateway.ready, within_s=RESUMES_WITHIN_S)
            assert (await terminal.ask(refused)).response == "00"
            await shop.host_returns()
            await shop.drained()
            assert all(shop.host.acts(sale) == ["0220 booked"] for sale, _ in sold)

    play(story())


@pytest.mark.parametrize("killed", [False, True], ids=["space returns", "the gateway is killed"])
def test_an_approval_that_cannot_be_written_is_not_told_until_it_is_durable(
    tmp_path: Path, disk: SmallDisk, killed: bool
) -> None:
    async def story() -> None:
        journal = {"path": str(disk.folder / "journal.sqlite3"), "min_free_bytes": 0}
        async with open_shop(tmp_path, setup(overrides={"journal": journal})) as shop:
            terminal = shop.terminal()
            sale = terminal.till.sale(1_000, TEST_CARDS[0])
            shop.host.next_messages(Behaviour(mode=Mode.LATE, delay_ms=300))
            asking = asyncio.create_task(terminal.ask(sale))
            await comes_true("the acquirer has it", lambda: shop.host.net(sale) == 1)
            disk.fill()
            await comes_true("the outcome finds no room", lambda: _not_ready(shop, "the disk is full"))
            assert not asking.done()
            if killed:
                await shop.kill()
                with pytest.raises(OSError, match="the line broke"):
                    await asking
                disk.enlarge()
                await shop.start()
                told = outcome(await terminal.ask(sale))
                assert told.response == "68"
                await shop.drained()
                assert shop.host.acts(sale) == ["0200 booked", "0400 reversed"]
            else:
                disk.enlarge()
                told = outcome(await asking)
                assert told.response == "00"
                assert shop.host.acts(sale) == ["0200 booked"]
            assert outcome(await terminal.ask(sale)) == told

    play(story())
