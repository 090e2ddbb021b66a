"""A notary at work on a real journal, and what it has told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gateway.core.lifecycle import EntryKind
from gateway.notary.notary import Notary, NotarySettings
from gateway.notary.status import NotaryState
from gateway.notary.witness import WitnessEnd
from protocol.transparency.notes import SignerKey
from tests.notary.scene import NOW_MS, Scene
from tests.notary.witness_host import WitnessHost

DEADLINE_S = 15.0


class Desk:
    """A notary on the journal's own event loop, and what it has told."""

    def __init__(self, scene: Scene, **settings: Any) -> None:
        self.scene = scene
        self.told: list[tuple[str, str, dict[str, str]]] = []
        usual: dict[str, Any] = {"checkpoint_every_ms": 20}
        self.notary = Notary(
            NotarySettings(journal=scene.path, origin=scene.origin, **usual | settings),
            scene.signers,
            lambda: scene.seeds,
            scene.head,
            lambda detail: scene.rig.journal.note(EntryKind.LOG_BROKEN, detail),
            lambda: NOW_MS,
            lambda level, name, facts: self.told.append((level, name, facts)),
        )

    def start(self) -> Desk:
        """At work when this returns: what was signed last is held against the journal before the journal can grow."""
        self.run(self._start())
        self.until("it has opened the log", lambda: self.state() is not NotaryState.STARTING)
        return self

    async def _start(self) -> None:
        self.notary.start()

    def run(self, work: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(DEADLINE_S):
                return await work

        return self.scene.rig.run(bounded())

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Let the loop run until it is so."""

        async def waiting() -> None:
            began = time.monotonic()
            while not holds():
                assert time.monotonic() - began < DEADLINE_S, f"in vain: {what}; {self.notary.status()}; {self.told}"
                await asyncio.sleep(0.005)

        self.run(waiting())

    def until_ticked(self, times: int) -> None:
        """Let so many ticks of the notary's timer pass."""
        ticks = 0
        real = self.notary._set_timer

        def counted() -> None:
            nonlocal ticks
            ticks += 1
            real()

        self.notary._set_timer = counted  # type: ignore[method-assign]
        self.until(f"{times} ticks have passed", lambda: ticks >= times)
        self.notary._set_timer = real  # type: ignore[method-assign]

    def until_signed(self) -> None:
        size = self.scene.head()[0]
        self.until(f"{size} entries are signed", lambda: self.notary.status().size == size)

    def state(self) -> NotaryState:
        return self.notary.status().state

    def events(self) -> list[str]:
        return [name for _, name, _ in self.told]

    def stop(self, *, sign: bool = True) -> None:
        self.run(self.notary.stop(sign=sign))


def kept(scene: Scene) -> int:
    return scene.checkpoint(scene.kept.read_bytes()).size


def size_in(scene: Scene, folder: Path) -> int:
    """Entries of the published head; 0 before the first."""
    path = folder / "checkpoint"
    return scene.checkpoint(path.read_bytes()).size if path.exists() else 0


def end_of(host: WitnessHost) -> WitnessEnd:
    return WitnessEnd(host.key, host.url, None)


def witness_of(scene: Scene) -> WitnessHost:
    return WitnessHost(SignerKey(scene.origin, scene.seeds[0]).verifier)


def restored_behind_its_witness(scene: Scene, host: WitnessHost) -> None:
    """A journal of 40 entries is restored from a backup, after the witness has cosigned 50."""
    scene.grow(40)
    backup = scene.backup("monday")
    desk = Desk(scene, witnesses=(end_of(host),)).start()
    scene.grow(10)
    desk.until("50 are cosigned", lambda: host.size == 50)
    desk.stop()
    scene.restore(backup, whole=True)
