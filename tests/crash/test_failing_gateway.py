"""The real gateway on a disk whose syncs fail: it stops, says why, and what it had answered is there afterwards.

A commit whose sync fails is unknown, not failed: nothing is answered from it, the process ends with 1 and names the
journal, and the terminal's retry after the next start decides (INV-1, INV-2).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import pytest

from bench.child import LOG_NAME
from bench.till import TEST_CARDS, Prepared
from tests.crash.amounts import LIMIT_S, TIMES, tool
from tests.crash.tracing import ROOT
from tests.gateway.shop import Outcome, Shop, comes_true, open_shop, outcome, play, setup

SYNCS: Final = tuple(range(2, 2 + 13 * TIMES, 4))
"""Which sync of the log fails."""
SALES_MAX: Final = 100 * TIMES
LOG: Final = "journal.sqlite3-wal"

pytestmark = pytest.mark.timeout(LIMIT_S)


async def start_failing(shop: Shop, fault: str) -> asyncio.subprocess.Process:
    """A gateway in which a sync of the log fails."""
    strace = tool("strace", "strace")
    with (shop.folder / LOG_NAME).open("ab") as log:
        return await asyncio.create_subprocess_exec(
            strace, "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-P", str(shop.folder / LOG),
            "-e", "trace=fdatasync", "-e", f"inject=fdatasync:{fault}",
            sys.executable, "-m", "gateway", "run", "-c", str(shop.gateway.config),
            stdout=log, stderr=log, cwd=ROOT, env=shop.gateway._environment, start_new_session=True,
        )  # fmt: skip


@pytest.mark.parametrize("number", SYNCS)
def test_a_gateway_whose_sync_fails_ends_with_1_names_the_journal_and_loses_nothing(
    tmp_path: Path, number: int
) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, setup()) as shop:
            assert await shop.gateway.stop() == 0
            failing = await start_failing(shop, f"error=EIO:when={number}")
            try:
                await comes_true("it is ready or ends", lambda: up_or_ended(shop, failing))
                terminal = shop.terminal()
                sold: list[tuple[Prepared, Outcome | None]] = []
                for turn in range(SALES_MAX):
                    sale = terminal.till.sale(1_000 + turn, TEST_CARDS[turn % len(TEST_CARDS)])
                    try:
                        sold.append((sale, outcome(await terminal.ask(sale))))
                    except OSError:
                        sold.append((sale, None))
                        break
                async with asyncio.timeout(15):
                    code = await failing.wait()
            finally:
                if failing.returncode is None:
                    failing.kill()
                    await failing.wait()
            assert code == 1
            assert sold[-1][1] is None, "the fault hit nothing"
            log = (shop.folder / LOG_NAME).read_text(encoding="utf-8")
            assert "its outcome is unknown: restart to recover" in log

            await shop.start()
            for sale, told in sold:
                again = outcome(await terminal.ask(sale))
                assert told is None or again == told, "what was answered is answered again"
            await shop.drained()
            for sale, told in sold:
                if told is not None and told.response == "00":
                    assert shop.host.net(sale) == 1
                assert shop.host.net(sale) <= 1

    play(story())


async def up_or_ended(shop: Shop, failing: asyncio.subprocess.Process) -> bool:
    """Whether the gateway takes messages, or has failed already."""
    return failing.returncode is not None or await shop.gateway.ready()
