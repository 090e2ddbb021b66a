"""A real aics-witness follows a real gateway's log, refuses a restored backup and a fork, and the gateway says so."""

from __future__ import annotations

import contextlib
import http.client
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.till import TEST_CARDS
from gateway.config.audit import AuditSection, origin_of
from gateway.journal.keyring import load_keyring
from gateway.notary.witness import request_body
from protocol.transparency.checkpoints import Checkpoint, open_checkpoint
from protocol.transparency.cosignatures import WitnessKey, verify_cosignatures
from protocol.transparency.notes import SignerKey, VerifierKey, parse_note
from tests.acceptance.verifiers import aics_tlog, aics_witness, ask_aics
from tests.acceptance.witness_process import NAME, WitnessProcess
from tests.gateway.shop import House, Shop, comes_true, open_shop, play, setup

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("acceptance")]

ORIGIN = origin_of(AuditSection(), "bench")
EVERY_MS = 100


class Audited:
    """A shop whose log a witness follows."""

    def __init__(self, shop: Shop, witness: WitnessProcess) -> None:
        self.shop = shop
        self.witness = witness
        self.terminal = shop.terminal()
        self.published = shop.folder / "published"
        self.kept = shop.folder / "journal.sqlite3-checkpoint"

    @property
    def log_key(self) -> VerifierKey:
        return SignerKey(ORIGIN, load_keyring(self.shop.folder / "keys").log_key).verifier

    def configure(self, *, witnessed: bool) -> None:
        """Write the configuration with or without the witness."""
        audit: dict[str, object] = {"checkpoint_every_ms": EVERY_MS, "publish_folder": "published"}
        if witnessed:
            audit["witnesses"] = [self.witness.line]
        house = replace(self.shop.setup, overrides={"audit": audit})
        self.shop.gateway.config.write_text(house.toml(), encoding="utf-8")

    async def sell(self, count: int) -> None:
        """So many sales, each approved."""
        for _ in range(count):
            told = await self.terminal.ask(self.terminal.till.sale(1000, TEST_CARDS[0]))
            assert told.response == "00"

    async def log(self) -> dict[str, object]:
        """What the status tells of the log."""
        told: dict[str, object] = (await self.shop.status())["log"]
        return told

    async def until_cosigned(self) -> int:
        """Wait until the witness has cosigned all that there is; how much that is."""

        async def so() -> bool:
            entries = (await self.shop.status())["journal"]["entries"]
            return self.witness.size() == int(entries)

        await comes_true("the witness has cosigned everything", so)
        return self.witness.size()

    async def until_broken(self) -> str:
        """Wait for the alarm; the reason that the status tells."""

        async def so() -> bool:
            return (await self.log())["state"] == "broken"

        await comes_true("the log is broken", so)
        (alarm, *more) = self.shop.logged("audit.log-broken")[-1:]
        assert not more
        assert alarm["level"] == "error"
        return str((await self.log())["reason"])

    def head(self) -> Checkpoint:
        """The newest signed head on the disk."""
        return open_checkpoint(self.kept.read_bytes(), ORIGIN, [self.log_key])

    def ask_witness(self, old: int, note: bytes) -> tuple[int, bytes]:
        """Ask the witness by hand, without a proof."""
        connection = http.client.HTTPConnection(*self.witness.address, timeout=10)
        try:
            connection.request("POST", "/add-checkpoint", request_body(old, [], note))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    async def back_up(self) -> Path:
        """Stop the gateway and copy the journal with everything beside it, as a backup of the machine would."""
        await self.shop.end("SIGTERM")
        backup = self.shop.folder.parent / f"{self.shop.folder.name}-backup"
        backup.mkdir()
        for path in self.shop.folder.glob("journal.sqlite3*"):
            shutil.copy2(path, backup / path.name)
        return backup

    async def restore(self, backup: Path) -> None:
        """Stop the gateway and put the backup in the place of all of it."""
        await self.shop.end("SIGTERM")
        self._put_back(backup)

    def _put_back(self, backup: Path) -> None:
        for path in self.shop.folder.glob("journal.sqlite3*"):
            path.unlink()
        for path in backup.iterdir():
            shutil.copy2(path, self.shop.folder / path.name)
        shutil.rmtree(self.published)


@contextlib.asynccontextmanager
async def audited(folder: Path) -> AsyncIterator[Audited]:
    house: House = setup()
    witness = WitnessProcess(aics_witness(), folder / "witness")
    try:
        async with open_shop(folder / "shop", house, start=False) as shop:
            scene = Audited(shop, witness)
            witness.trust(ORIGIN, scene.log_key.text)
            await witness.start()
            scene.configure(witnessed=True)
            await shop.start()
            yield scene
    except BaseException as error:
        error.add_note(f"the witness's log ends:\n{witness.log_end()}")
        raise
    finally:
        await witness.stop()


def test_it_cosigns_the_heads_of_a_gateway_that_sells_is_killed_and_is_stopped(tmp_path: Path) -> None:
    async def test() -> None:
        async with audited(tmp_path) as scene:
            shop, witness = scene.shop, scene.witness
            await scene.sell(5)
            first = await scene.until_cosigned()
            await shop.kill()
            await shop.start()
            await scene.sell(5)
            second = await scene.until_cosigned()
            await shop.host_leaves()
            await scene.sell(20)
            assert first < second < await scene.until_cosigned()

            ran = await shop.holdfast("audit", "checkpoint", "--json")
            assert ran.code == 0, ran.err
            assert ran.json["origin"] == ORIGIN
            on_demand = open_checkpoint(ran.json["note"].encode(), ORIGIN, [scene.log_key])

            await scene.sell(7)
            await shop.end("SIGTERM")
            head = scene.head()
            assert head.size > on_demand.size
            assert witness.size() == head.size, "the clean stop's head covers all and was cosigned"
            for path in (scene.kept, scene.published / "checkpoint"):
                note = parse_note(path.read_bytes())
                assert [each.name for each in verify_cosignatures(note, [WitnessKey.parse(witness.key)])] == [NAME]
            vkey = tmp_path / "log.vkey"
            vkey.write_text(scene.log_key.text + "\n")
            report = ask_aics(
                aics_tlog(), "verify-checkpoint", "--vkey-file", vkey, "--origin", ORIGIN, "--tiles", scene.published
            )
            assert (report["ok"], report["tiles_ok"], report["size"]) == (True, True, head.size)
            assert not shop.logged("audit.log-broken")
            assert witness.evidence() == 0

    play(test())


def test_it_answers_409_to_a_restored_backup_and_the_gateway_signs_no_more_and_goes_on_selling(tmp_path: Path) -> None:
    async def test() -> None:
        async with audited(tmp_path) as scene:
            shop, witness = scene.shop, scene.witness
            await scene.sell(10)
            backup = await scene.back_up()
            old = scene.head()
            await shop.start()
            await scene.sell(10)
            seen = await scene.until_cosigned()
            await scene.restore(backup)
            assert scene.ask_witness(old.size, scene.kept.read_bytes()) == (409, f"{seen}\n".encode())

            await shop.start()
            assert f"has seen {seen} entries, the journal has fewer" in await scene.until_broken()
            await scene.sell(3)
            assert (await shop.get("/readyz"))[0] == 200
            assert "is not signed any more" in (await shop.get("/readyz"))[1]
            assert await shop.metric('holdfast_log_state{state="broken"}') == 1
            assert scene.head() == old, "a head of another history was signed"
            refused = await shop.holdfast("audit", "checkpoint")
            assert refused.code == 1
            assert "was not signed" in refused.err
            assert witness.size() == seen

            ran = await shop.holdfast("audit", "continue", "--who", "Kim", "--why", "restored after a fire")
            assert ran.code == 0, ran.err
            await scene.sell(3)

            async def signed() -> bool:
                told = await scene.log()
                return (told["state"], told["unsigned"]) == ("signing", 0)

            await comes_true("heads are signed again", signed)
            assert scene.head().size > old.size
            assert witness.size() == seen, "what the witness has seen stays"

    play(test())


def test_it_answers_422_to_a_fork_and_the_gateway_signs_no_more(tmp_path: Path) -> None:
    async def test() -> None:
        async with audited(tmp_path) as scene:
            shop, witness = scene.shop, scene.witness
            await scene.sell(10)
            backup = await scene.back_up()
            await shop.start()
            await scene.sell(5)
            seen = await scene.until_cosigned()
            await scene.restore(backup)
            scene.configure(witnessed=False)
            await shop.start()
            await scene.sell(20)
            await shop.end("SIGTERM")
            forked = scene.head()
            assert forked.size > seen
            assert scene.ask_witness(seen, scene.kept.read_bytes())[0] == 422

            scene.configure(witnessed=True)
            await shop.start()
            assert "a fork" in await scene.until_broken()
            await scene.sell(3)
            assert scene.head() == forked
            assert witness.size() == seen
            assert witness.evidence() >= 1

    play(test())
