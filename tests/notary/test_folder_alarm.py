"""A real gateway whose journal was put back finds its own later head in the published folder, and says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.till import TEST_CARDS
from tests.gateway.shop import Shop, comes_true, open_shop, play, setup


async def until_state(shop: Shop, state: str) -> dict[str, Any]:
    """Wait until the log is so; what the status tells of it then."""

    async def so() -> bool:
        return bool((await shop.status())["log"]["state"] == state)

    await comes_true(f"the log is {state}", so)
    told: dict[str, Any] = (await shop.status())["log"]
    return told


async def sell(shop: Shop, count: int) -> None:
    terminal = shop.terminal()
    for _ in range(count):
        assert (await terminal.ask(terminal.till.sale(1000, TEST_CARDS[0]))).response == "00"
    await shop.drained()


def test_a_restored_journal_is_not_signed_on_where_the_published_folder_knows_better(tmp_path: Path) -> None:
    async def story() -> None:
        audit = {"checkpoint_every_ms": 100, "publish_folder": "published"}
        async with open_shop(tmp_path / "shop", setup(overrides={"audit": audit})) as shop:
            await sell(shop, 3)
            await shop.end("SIGTERM")
            backup = tmp_path / "backup"
            backup.mkdir()
            for path in shop.folder.glob("journal.sqlite3*"):
                shutil.copy2(path, backup / path.name)
            await shop.start()
            await sell(shop, 6)
            await shop.end("SIGTERM")
            published = (shop.folder / "published" / "checkpoint").read_bytes()
            for path in shop.folder.glob("journal.sqlite3*"):
                path.unlink()
            for path in backup.iterdir():
                shutil.copy2(path, shop.folder / path.name)
            kept = (shop.folder / "journal.sqlite3-checkpoint").read_bytes()

            await shop.start()
            told = await until_state(shop, "broken")
            assert "keep this folder as evidence" in told["reason"]
            assert await shop.metric('holdfast_log_state{state="broken"}') == 1
            assert [each["level"] for each in shop.logged("audit.log-broken")] == ["error"]
            await sell(shop, 2)  # payments go on
            shown = await shop.holdfast("status")
            assert "NOT SIGNED: " in shown.out
            assert "folder: 0 entries; FAILS: " in shown.out, shown
            assert (shop.folder / "journal.sqlite3-checkpoint").read_bytes() == kept, "a second history was signed"

            ran = await shop.holdfast("audit", "continue", "--who", "Kim", "--why", "the disk was replaced")
            assert ran.code == 0, ran
            assert (await until_state(shop, "signing"))["reason"] == ""
            assert (shop.folder / "published" / "checkpoint").read_bytes() == published

    play(story())
