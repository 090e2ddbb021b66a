"""A part is shown only when a second person approves, and only once an entry that tells of it is durable."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.till import TEST_CARDS
from gateway.core.lifecycle import EntryKind
from gateway.journal.log_reader import LogReader
from gateway.operations.approvals import make_approver_key
from protocol.journal_entry import decode_entry
from tests.gateway.shop import DEADLINE_S, House, Ran, Shop, open_shop, play, setup

CARD = TEST_CARDS[0]


def with_approvers(folder: Path) -> House:
    """A gateway with two people who may approve, and their keys."""
    named = [f"{name}:{make_approver_key(folder / f'{name}.pem')}" for name in ("alice", "bob")]
    return setup(overrides={"operations": {"approvers": named}})


def disclosed(folder: Path) -> list[dict[str, Any]]:
    """What the journal tells of disclosures."""
    with LogReader(folder / "journal.sqlite3") as reader:
        entries = [decode_entry(reader.entry(index).body) for index in range(reader.size)]
    return [json.loads(entry.detail) | {"at": entry.sequence} for entry in entries if entry.kind == EntryKind.DISCLOSED]


async def sold(shop: Shop) -> int:
    """Sell something; the transaction's id, once a signed checkpoint covers it."""
    counter = shop.terminal()
    await counter.ask(counter.till.sale(1200, CARD))
    _, listed = await shop.get("/v1/queue?state=approved")
    ran = await shop.holdfast("audit", "checkpoint")
    assert ran.code == 0, ran.err
    return int(json.loads(listed)["transactions"][0]["id"])


async def asked(shop: Shop, number: int, *, who: str = "alice") -> Ran:
    """The first person."""
    return await shop.holdfast(
        "audit", "disclose", str(number), "--part", "account", "--who", who, "--key", str(shop.folder / f"{who}.pem"),
        "--why", "case 4711", "--json",
    )  # fmt: skip


async def approved(shop: Shop, number: int, request: str, out: Path, *, who: str = "bob", key: str = "bob") -> Ran:
    """The second."""
    return await shop.holdfast(
        "audit", "disclose", str(number), "--part", "account", "--who", who, "--key", str(shop.folder / f"{key}.pem"),
        "--approve", request, "--out", str(out), "--json",
    )  # fmt: skip


async def opened(shop: Shop, file: Path, *more: str) -> Ran:
    """The auditor, who has the file and nothing of the gateway's but its verifier key."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "audit", "open-disclosure", str(file), "--json", *more,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(child.communicate(), 30)
    return Ran(child.returncode or 0, out.decode(), err.decode())


async def verifier_key(shop: Shop, number: int) -> str:
    """The log's verifier key, as `prove` names it."""
    proved = (await shop.holdfast("audit", "prove", str(number), "--json")).json
    return str(proved["verifier_keys"][0])


def test_two_people_show_an_auditor_one_part_while_the_gateway_runs_and_while_it_does_not(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, with_approvers(tmp_path)) as shop:
            number = await sold(shop)
            for place, running in enumerate((True, False)):
                if not running:
                    assert await shop.gateway.stop() == 0
                ran = await asked(shop, number)
                assert ran.code == 0, ran.err
                out = tmp_path / f"disclosure-{place}.json"
                ran = await approved(shop, number, ran.json["request"], out)
                assert ran.code == 0, ran.err
                assert CARD not in ran.out + ran.err
                told = disclosed(tmp_path)
                assert len(told) == place + 1
                assert told[-1]["at"] == ran.json["disclosed_in"]
                assert (told[-1]["entry"], told[-1]["part"], told[-1]["who"]) == (number, "account", "alice, bob")
                assert told[-1]["evidence"]["approving"]
                assert stat.S_IMODE(out.stat().st_mode) == 0o600
                key = await verifier_key(shop, number)
                ran = await opened(shop, out, "--verifier-key", key)
                assert ran.code == 0, ran.err
                assert ran.json["signature_checked"]
                assert ran.json["request"]["fields"]["2"] == f"{CARD[:6]}******{CARD[-4:]}"
                assert CARD in (await opened(shop, out, "--full")).out
                assert CARD not in out.read_text()
                assert (await shop.holdfast("keys", "requests", "--json")).json == []

    play(story())


def test_one_person_alone_a_stranger_and_another_subject_are_shown_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, with_approvers(tmp_path)) as shop:
            number = await sold(shop)
            request = (await asked(shop, number)).json["request"]
            out = tmp_path / "disclosure.json"
            make_approver_key(tmp_path / "mallory.pem")
            refused = [
                (await approved(shop, number, request, out, who="alice", key="alice"), "another person"),
                (await approved(shop, number, request, out, who="bob", key="alice"), "not signed by the key of bob"),
                (await approved(shop, number, request, out, who="bob", key="mallory"), "not signed by the key of bob"),
                (await approved(shop, number, request, out, who="mallory", key="mallory"), "not one of"),
                (await approved(shop, number, "0" * 16, out), "there is no request"),
                (await approved(shop, number + 1, request, out), "approve what was asked for"),
                (await asked(shop, number), "asked for already"),
            ]
            for ran, said in refused:
                assert ran.code in (1, 2)
                assert said in ran.err, ran.err
            assert not out.exists()
            assert disclosed(tmp_path) == []
            assert (await approved(shop, number, request, out)).code == 0
            again = await approved(shop, number, request, tmp_path / "again.json")
            assert again.code == 1, "an approval counts once"
            assert len(disclosed(tmp_path)) == 1

    play(story())


def test_where_the_entry_cannot_be_written_no_key_leaves(tmp_path: Path) -> None:
    """The safeguard's order: a gateway that dies on the approval's way leaves no file."""

    async def story() -> None:
        async with open_shop(tmp_path, with_approvers(tmp_path)) as shop:
            number = await sold(shop)
            request = (await asked(shop, number)).json["request"]
            out = tmp_path / "disclosure.json"
            (tmp_path / "operations.token").chmod(0o644)  # the gateway's answer will not be had
            ran = await approved(shop, number, request, out)
            assert ran.code == 1
            assert not out.exists()
            assert disclosed(tmp_path) == []

    play(story())


_AT_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "gateway", *sys.argv[1:]])
"""


def typed(shop: Shop, word: str, *arguments: str) -> tuple[int, str]:
    """Run a command at a terminal where somebody types `word`; its code, and what the terminal shows."""
    ours, theirs = os.openpty()
    shown, answered = b"", False
    child = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", _AT_A_TERMINAL, *arguments, "-c", str(shop.gateway.config)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        with contextlib.suppress(OSError):  # EIO: the command has ended
            while select.select([ours], [], [], DEADLINE_S)[0] and (piece := os.read(ours, 4096)):
                shown += piece
                if not answered and shown.endswith(b".pem: "):  # the blank comes once nothing is echoed any more
                    answered = True
                    os.write(ours, word.encode() + b"\n")
        return child.wait(DEADLINE_S), shown.decode()
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_a_key_that_is_locked_asks_at_a_terminal_for_its_passphrase_and_says_so_where_there_is_none(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        carol, bob = make_approver_key(tmp_path / "carol.pem", b"a long word"), make_approver_key(tmp_path / "bob.pem")
        house = setup(overrides={"operations": {"approvers": [f"carol:{carol}", f"bob:{bob}"]}})
        async with open_shop(tmp_path, house) as shop:
            number = await sold(shop)
            ran = await asked(shop, number, who="carol")
            said = "carol.pem is locked by a passphrase, and nobody is at a terminal to type it: run this at one"
            assert (ran.code, said in ran.err) == (2, True), ran
            command = (
                "audit", "disclose", str(number), "--part", "account", "--who", "carol",
                "--key", str(tmp_path / "carol.pem"), "--why", "case 4711",
            )  # fmt: skip
            code, shown = await asyncio.to_thread(typed, shop, "another word", *command)
            assert (code, "does not open with this passphrase" in shown) == (1, True), shown
            assert (await shop.holdfast("keys", "requests", "--json")).json == []
            code, shown = await asyncio.to_thread(typed, shop, "a long word", *command)
            assert (code, "another person approves it" in shown) == (0, True), shown
            assert "a long word" not in shown
            assert len((await shop.holdfast("keys", "requests", "--json")).json) == 1

    play(story())
