"""Changes of the key-encryption key, who may ask for one, and what a disclosure waits for."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from bench.till import TEST_CARDS
from gateway.config import Address
from gateway.core.lifecycle import EntryKind
from gateway.journal import key_changes
from gateway.journal.key_changes import KeyChangeRefused
from gateway.journal.key_wrapping import KEK_FILE, NEXT_KEK_FILE, RawKek
from gateway.journal.keyring import KEYRING_FILE, KeyPurpose, load_keyring
from gateway.journal.log_reader import LogReader
from gateway.journal.port import JournalKeysWrong
from gateway.operations.approvals import (
    ApprovalRefused,
    Approvals,
    approving_text,
    asking_text,
    make_approver_key,
    new_request,
    requests_file,
    sign,
)
from gateway.operations.disclosures import DISCLOSE, Disclosures, subject_of
from gateway.operations.server import OperationsServer
from protocol.journal_entry import decode_entry
from tests.gateway.shop import open_shop, setup
from tests.gateway.shop import play as play_shop
from tests.operations.example_gateway import ExampleGateway
from tests.operations.test_keys import HOUR_MS, PEOPLE, Desk, play, unwritable
from tests.operations.test_keys_commands import put
from tests.operations.test_server import TOKEN, ask

ELSEWHERE = RawKek(b"e" * 32, "the key from elsewhere")
BESIDE = RawKek(b"b" * 32, "the key beside")


@pytest.mark.parametrize(("listen", "status"), [("127.0.0.1", 200), ("0.0.0.0", 409)])  # noqa: S104 - the point of it
def test_where_others_reach_the_listener_no_key_encryption_key_is_taken_from_it(
    tmp_path: Path, listen: str, status: int
) -> None:
    async def story(desk: Desk) -> None:
        before = (desk.folder / KEYRING_FILE).read_bytes()
        server = OperationsServer(ExampleGateway(), Address(listen, 0), TOKEN, keys=desk.keys)
        address = Address("127.0.0.1", (await server.start()).port)
        try:
            body = json.dumps({"to": "file", "who": "ann", "why": "yearly"}).encode()
            assert (await ask(address, "/v1/keys/rewrap", method="POST", body=body)).status == 401
            said = await ask(address, "/v1/keys/rewrap", method="POST", body=body, token=TOKEN)
            assert said.status == status
            if status == 409:
                assert "stop the gateway, and run `holdfast keys rewrap` on its machine" in said.json["detail"]
                assert (desk.folder / KEYRING_FILE).read_bytes() == before
            body = json.dumps({"purpose": "account-epoch", "who": "ann", "why": "yearly"}).encode()
            assert (await ask(address, "/v1/keys/rotate", method="POST", body=body, token=TOKEN)).status == 200
        finally:
            await server.close()

    play(tmp_path, story)


def test_where_the_old_key_cannot_be_erased_it_is_said_and_keys_change_on_with_the_new_one(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        kek = desk.folder / KEK_FILE
        kek.rename(tmp_path / "mounted")
        kek.symlink_to(tmp_path / "mounted")  # what lies behind a link is not overwritten
        with pytest.raises(KeyChangeRefused, match=f"wrapped by {ELSEWHERE.name} .*{re.escape(str(kek))}"):
            await desk.keys.rewrap("env:KEK", ELSEWHERE, "ann", "into the safe")
        assert desk.told()[-1]["what"] == "rewrapped"
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "yearly")
        assert load_keyring(desk.folder, ELSEWHERE).current[KeyPurpose.ACCOUNT] == 6
        kek.unlink()
        await desk.keys.rewrap("env:OTHER", BESIDE, "ann", "again")
        assert load_keyring(desk.folder, BESIDE).current[KeyPurpose.ACCOUNT] == 6

    play(tmp_path, story)


def test_where_the_new_key_of_the_folder_gets_no_name_yet_it_is_in_use_all_the_same(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.keys.rewrap("env:KEK", ELSEWHERE, "ann", "into the safe")
        (desk.folder / KEK_FILE).mkdir()  # a name that cannot be taken
        with pytest.raises(KeyChangeRefused, match="all keys are wrapped by"):
            await desk.keys.rewrap("file", None, "ann", "back")
        (desk.folder / KEK_FILE).rmdir()
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "yearly")
        assert load_keyring(desk.folder).current[KeyPurpose.ACCOUNT] == 6

    play(tmp_path, story)


@pytest.mark.parametrize("failing", ["erase", "sync_folder"])
def test_where_the_change_of_the_folders_key_is_not_ended_nobody_is_told_to_remove_what_may_be_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def story(desk: Desk) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(key_changes, failing, fail)
            with pytest.raises(KeyChangeRefused) as said:
                await desk.keys.rewrap("file", None, "ann", "yearly")
        assert "all keys are wrapped by a new key" in str(said.value)
        assert "Remove neither" in str(said.value)
        key_changes.open_keyring(desk.folder)  # the next start ends it: the new key has the name that the old one had
        assert not (desk.folder / NEXT_KEK_FILE).exists()
        assert load_keyring(desk.folder) == desk.keys.keyring

    play(tmp_path, story)


def test_a_new_key_of_the_folder_does_not_follow_one_behind_a_link_which_no_start_could_erase(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        kek = desk.folder / KEK_FILE
        kek.rename(tmp_path / "mounted")
        kek.symlink_to(tmp_path / "mounted")
        before = desk.keys.keyring
        with pytest.raises(KeyChangeRefused, match=r"nothing was changed: .* is a link"):
            await desk.keys.rewrap("file", None, "ann", "yearly")
        assert desk.keys.keyring == key_changes.open_keyring(desk.folder) == before

    play(tmp_path, story)


def test_where_nothing_was_wrapped_anew_the_key_of_before_stays_in_use(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        before = desk.keys.keyring
        for kek in (ELSEWHERE, None):
            with unwritable(desk.folder), pytest.raises(KeyChangeRefused, match="nothing was changed"):
                await desk.keys.rewrap("env:KEK", kek, "ann", "into the safe")
            assert desk.keys.keyring == load_keyring(desk.folder) == before
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "yearly")
        assert load_keyring(desk.folder).current[KeyPurpose.ACCOUNT] == 6

    play(tmp_path, story)


def test_a_disclosure_that_was_asked_for_at_another_gateway_is_not_approved(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        approvals = Approvals(requests_file(desk.folder), desk.approvers, lambda: desk.now_ms)
        name = desk.keys.keyring.name
        disclosures = Disclosures(desk.journal, approvals, name)
        for number, gateway in enumerate(("f" * 32, name), 1):
            request = new_request(
                DISCLOSE, subject_of("account", number, number), who="ann", why="x", gateway=gateway, now_ms=desk.now_ms
            )
            approvals.ask(request, sign(PEOPLE["ann"], asking_text(request)))
            signature = sign(PEOPLE["bob"], approving_text(request, "bob"))
            if gateway == name:
                assert (await disclosures.approve(request.id, "bob", signature)).sequence
            else:
                with pytest.raises(ApprovalRefused, match=f"for keyring {gateway}, this is {name}"):
                    await disclosures.approve(request.id, "bob", signature)

    play(tmp_path, story)


def kinds(journal: Path) -> list[tuple[EntryKind, str]]:
    """Kind and detail of what the log tells of keys and disclosures."""
    with LogReader(journal) as reader:
        entries = [decode_entry(each.body) for each in reader.entries(0, reader.size)]
    told = {EntryKind.KEY, EntryKind.DISCLOSED}
    return [(EntryKind(each.kind), each.detail) for each in entries if each.kind in told]


def test_while_no_gateway_runs_another_list_of_approvers_is_told_before_what_it_lets_out(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path, setup(), start=False) as shop:
            public = {name: make_approver_key(tmp_path / f"{name}.pem") for name in ("ann", "bob")}
            await shop.start()
            terminal = shop.terminal()
            await terminal.ask(terminal.till.sale(1200, TEST_CARDS[0]))
            assert (await shop.holdfast("audit", "checkpoint")).code == 0
            _, listed = await shop.get("/v1/queue?state=approved")
            number = json.loads(listed)["transactions"][0]["id"]
            assert await shop.gateway.stop() == 0
            approvers = json.dumps([f"{name}:{key}" for name, key in public.items()])
            put(shop, "operations", f"approvers = {approvers}")
            part = ("audit", "disclose", str(number), "--part", "account", "--key")
            ran = await shop.holdfast(*part, str(tmp_path / "ann.pem"), "--who", "ann", "--why", "case 4711", "--json")
            assert ran.code == 0, ran.err
            ran = await shop.holdfast(
                *part, str(tmp_path / "bob.pem"), "--who", "bob", "--approve", ran.json["request"],
                "--out", str(tmp_path / "out.json"),
            )  # fmt: skip
            assert ran.code == 0, ran.err
            (approvers_kind, approvers_told), (kind, _) = kinds(tmp_path / "journal.sqlite3")[-2:]
            assert (approvers_kind, kind) == (EntryKind.KEY, EntryKind.DISCLOSED)
            assert json.loads(approvers_told)["facts"] == public

    play_shop(story())


def test_a_list_of_approvers_that_could_not_be_told_at_the_start_is_told_by_itself_later(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        await desk.close()
        desk.approvers.pop("cleo")
        with unwritable(desk.folder):
            await desk.open()
            with pytest.raises((OSError, JournalKeysWrong), match="Read-only file system"):
                await desk.keys.settle(must=True)
        assert [event["what"] for event in desk.told()] == ["created", "approvers"]
        await desk.keys.turn()
        assert [sorted(event.get("facts", {})) for event in desk.told()] == [[], ["ann", "bob", "cleo"], ["ann", "bob"]]

    play(tmp_path, story)


def test_a_list_of_requests_that_cannot_be_read_keeps_no_epoch_open(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        requests_file(desk.folder).write_bytes(b"{")
        desk.now_ms += 24 * HOUR_MS
        await desk.keys.turn()
        assert [desk.state(key) for key in (2, 6)] == ["destroyed", "current"]
        assert len(desk.named("keys.failed")) == 1

    play(tmp_path, story)
