"""`holdfast keys` against a real gateway: while it sells, while none runs, and with a token that wraps its keys."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.child import GatewayBroken
from bench.till import TEST_CARDS
from gateway.core.lifecycle import EntryKind
from gateway.operations.approvals import make_approver_key, requests_file
from protocol.journal_entry import decode_entry
from tests.gateway.shop import Ran, Shop, open_shop, play
from tests.journal.softhsm import PIN_VARIABLE, make_token, uri


def put(shop: Shop, table: str, line: str) -> None:
    """Write a key into a table of the shop's configuration."""
    text = shop.gateway.config.read_text()
    heading = f"[{table}]\n"
    shop.gateway.config.write_text(
        text.replace(heading, heading + line + "\n") if heading in text else f"{text}\n{heading}{line}\n"
    )


def name_approvers(shop: Shop) -> dict[str, Path]:
    """Two people with keys of their own, named in the configuration; their private keys."""
    files = {name: shop.folder / f"{name}.pem" for name in ("ann", "bob")}
    listed = [f"{name}:{make_approver_key(file)}" for name, file in files.items()]
    put(shop, "operations", f"approvers = {json.dumps(listed)}")
    return files


async def done(shop: Shop, *arguments: str) -> Ran:
    ran = await shop.holdfast("keys", *arguments)
    assert ran.code == 0, ran.err
    return ran


async def refused(shop: Shop, *arguments: str) -> str:
    ran = await shop.holdfast("keys", *arguments)
    assert ran.code == 1, ran
    return ran.err


async def listed(shop: Shop) -> dict[int, dict[str, Any]]:
    return {key["id"]: key for key in (await done(shop, "list", "--json")).json["keys"]}


def told(journal: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        bodies = [body for (body,) in connection.execute("SELECT body FROM entry ORDER BY sequence")]
    finally:
        connection.close()
    entries = [decode_entry(body) for body in bodies]
    return [json.loads(entry.detail) for entry in entries if entry.kind == EntryKind.KEY]


def test_keys_are_rotated_retired_and_destroyed_by_two_people_while_the_gateway_sells(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            files = name_approvers(shop)
            await shop.start()
            terminal = shop.terminal()
            assert (await terminal.ask(terminal.till.sale(1000, TEST_CARDS[0]))).response == "00"
            await shop.drained()
            ran = await done(shop, "rotate", "account-epoch", "--why", "a year is over", "--who", "ann")
            assert "key 6 is the account-epoch key now" in ran.out
            assert (await terminal.ask(terminal.till.sale(1100, TEST_CARDS[1]))).response == "00"
            hint = (await done(shop, "rotate", "log-signing", "--why", "a year is over")).out
            assert "`holdfast keys retire 5 --why ...`" in hint, "what it tells to type is all that is needed"
            hint = (await done(shop, "retire", "5", "--why", "the auditor has the new one")).out
            assert "`holdfast keys destroy 5 --who NAME --why ... --key FILE`" in hint
            ask = ("destroy", "1", "--who", "ann", "--why", "retention is over", "--key", str(files["ann"]))
            hint = (await done(shop, *ask)).out
            assert "retire" not in hint
            assert "--who NAME --key FILE`" in hint
            waiting = (await done(shop, "requests", "--json")).json
            number = waiting[0]["request"]["id"]
            approve = ("approve", number, "--yes", "--who", "bob", "--key")
            assert "not signed by the key of bob" in await refused(shop, *approve, str(files["ann"]))
            assert (await done(shop, *approve, str(files["bob"]))).out.startswith("key 1 is destroyed")
            keys = await listed(shop)
            assert [keys[number]["state"] for number in (1, 5, 6, 7)] == ["destroyed", "retired", "current", "current"]
            assert (await shop.holdfast("keys", "list")).out.count("\n") == 9
            assert (await terminal.ask(terminal.till.sale(1200, TEST_CARDS[2]))).response == "00"
            status = await shop.status()
            assert (status["keys"]["open"], status["keys"]["overdue"]) == (1, False)
            assert await shop.metric("holdfast_sensitive_epoch_age_seconds") > 0
            assert await shop.metric("holdfast_sensitive_epochs_open") == 1
            await shop.drained()
            assert await shop.gateway.stop() == 0
            assert [event["what"] for event in told(tmp_path / "journal.sqlite3")] == [
                "created", "approvers", "rotated", "rotated", "retired", "destruction asked for", "destroyed",
            ]  # fmt: skip

    play(story())


def test_while_no_gateway_runs_the_same_commands_hold_its_journal(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            assert await shop.gateway.stop() == 0
            assert "key 6 is the" in (await done(shop, "rotate", "sensitive-epoch", "--why", "by hand")).out
            assert "wrapped anew" in (await done(shop, "rewrap", "--why", "yearly")).out
            assert (await listed(shop))[6]["state"] == "current"
            assert [event["what"] for event in told(tmp_path / "journal.sqlite3")] == [
                "created",
                "rotated",
                "rewrapped",
            ]
            await shop.start()
            assert (await listed(shop))[6]["state"] == "current"

    play(story())


def test_without_a_terminal_it_says_what_to_give_and_a_list_that_is_put_back_is_not_done_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, start=False) as shop:
            files = name_approvers(shop)
            await shop.start()
            assert await shop.gateway.stop() == 0
            await done(shop, "rotate", "account-epoch", "--why", "a year is over")
            locked = shop.folder / "locked.pem"
            make_approver_key(locked, b"a long word")
            ask = ("destroy", "1", "--who", "ann", "--why", "x", "--key")
            ran = alone(shop, *ask, str(locked))
            assert (ran.returncode, "is locked by a passphrase" in ran.stderr) == (2, True), ran
            await done(shop, *ask, str(files["ann"]))
            number = (await done(shop, "requests", "--json")).json[0]["request"]["id"]
            approve = ("approve", number, "--who", "bob", "--key", str(files["bob"]))
            ran = alone(shop, *approve)
            assert (ran.returncode, "give --yes" in ran.stderr, "Aborted" in ran.stderr) == (2, True, False), ran
            assert (await listed(shop))[1]["state"] == "retired"
            path = requests_file(tmp_path / "keys")
            before = path.read_bytes()
            assert (await done(shop, *approve, "--yes")).out.startswith("key 1 is destroyed")
            path.write_bytes(before)
            assert (await done(shop, "requests", "--json")).json == []
            assert "there is no request" in await refused(shop, *approve, "--yes")

    play(story())


def alone(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with nobody at a terminal."""
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "gateway", "keys", *arguments, "-c", str(shop.gateway.config)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60, start_new_session=True,
    )  # fmt: skip


def test_a_keyring_from_a_backup_is_refused_until_it_is_made_to_fit_and_then_sells_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            ring = tmp_path / "keys" / "keyring.json"
            backup = ring.read_bytes()
            terminal = shop.terminal()
            sale = terminal.till.sale(1000, TEST_CARDS[0])
            assert (await terminal.ask(sale)).response == "00"
            await done(shop, "rotate", "sensitive-epoch", "--why", "x")
            await shop.drained()
            assert await shop.gateway.stop() == 0
            assert "nothing is to be restored" in await refused(shop, "restore", "--why", "x")
            ring.write_bytes(backup)
            with pytest.raises(GatewayBroken, match=r"sensitive-epoch key 6 of .* is missing"):
                await shop.start()
            ran = await done(shop, "restore", "--why", "the disk of the keys was lost", "--who", "ann")
            assert ran.out == "keys 6 count as destroyed now, and the epochs have new keys\n"
            await shop.start()
            assert (await terminal.ask(sale)).response == "00", "a repeat gets the answer of the first time"
            assert (await terminal.ask(terminal.till.sale(1100, TEST_CARDS[1]))).response == "00"
            states = {number: key["state"] for number, key in (await listed(shop)).items()}
            assert [states[number] for number in (1, 6, 7, 8)] == ["retired", "destroyed", "current", "current"]
            await shop.drained()
            assert await shop.gateway.stop() == 0
            events = told(tmp_path / "journal.sqlite3")
            assert len({event["number"] for event in events}) == len({json.dumps(event) for event in events})
            assert "lost" in [event["what"] for event in events]

    play(story())


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("rotate", "row-integrity", "--why", "x"), 2, "PURPOSE is one of"),
        (("rotate", "account-epoch", "--why", " "), 2, "--why is empty"),
        (("rotate", "account-epoch", "--why", "card 4761739001010010"), 2, "no card number"),
        (("retire", "1", "--why", "x"), 1, "is the current account-epoch key"),
        (("retire", "99", "--why", "x"), 1, "there is no key 99"),
        (("rewrap", "--why", "x", "--to", "vault:x"), 2, "--to is none of the four places"),
        (("rewrap", "--why", "x", "--to", "env:NOT_THERE"), 1, "no environment variable NOT_THERE"),
        (("rewrap", "--why", "x", "--generate"), 1, "only in a token"),
        (("approve", "0" * 16, "--who", "ann", "--key", "/none", "--yes"), 1, "there is no request"),
        (("withdraw", "0" * 16, "--why", "x"), 1, "there is no request"),
        (("destroy", "1", "--who", "ann", "--why", "x", "--key", "/none"), 1, "/none cannot be read"),
    ],
)
def test_what_cannot_be_done_says_what_to_do_instead(
    tmp_path: Path, arguments: tuple[str, ...], code: int, why: str
) -> None:
    from bench.ports import free_ports  # noqa: PLC0415
    from gateway.operations.installing import install  # noqa: PLC0415

    made = install(tmp_path / "gateway")
    made.config.write_text(made.config.read_text().replace("127.0.0.1:9480", f"127.0.0.1:{free_ports(1)[0]}"))
    before = (made.keys / "keyring.json").read_bytes()
    ran = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "gateway", "keys", *arguments, "-c", str(made.config)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, why in ran.stderr) == (code, True), ran
    after = json.loads((made.keys / "keyring.json").read_bytes())
    assert after["keys"] == json.loads(before)["keys"]


def test_with_its_key_encryption_key_in_a_token_the_gateway_starts_sells_and_rotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in make_token(tmp_path, "holdfast").items():
        monkeypatch.setenv(name, value)
    source = uri("holdfast", "gateway kek")

    async def story() -> None:
        (tmp_path / "shop").mkdir()
        async with open_shop(tmp_path / "shop", start=False) as shop:
            await done(shop, "rewrap", "--why", "into the token", "--to", source, "--generate")
            keys = shop.folder / "keys"
            assert not (keys / "kek.key").exists()
            put(shop, "journal", f'key_encryption_key = "{source}"')
            assert (await shop.holdfast("config", "check")).code == 0
            await shop.start()
            terminal = shop.terminal()
            assert (await terminal.ask(terminal.till.sale(1000, TEST_CARDS[0]))).response == "00"
            await done(shop, "rotate", "account-epoch", "--why", "x")
            await shop.kill()
            await shop.start()
            report = (await done(shop, "list", "--json")).json
            assert report["key_encryption_key"] == "key 'gateway kek' in token 'holdfast'"
            assert report["keys"][5]["state"] == "current"
            await shop.drained()
            assert await shop.gateway.stop() == 0
            wrong = await shop.holdfast("config", "check", environment={PIN_VARIABLE: "0000"})
            assert (wrong.code, "refuses the PIN" in wrong.err) == (2, True), wrong

    play(story())
