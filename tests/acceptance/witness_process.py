"""A real aics-witness beside a gateway: other people's implementation of c2sp.org/tlog-witness, as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any, Final

from bench.ports import free_ports
from tests.gateway.shop import DEADLINE_S, comes_true

NAME: Final = "witness.example/w1"


class WitnessProcess:
    """One witness with its own key and database in `folder`. Commands run to their end; `start` serves."""

    def __init__(self, program: str, folder: Path) -> None:
        folder.mkdir()
        self._program = program
        self._config = folder / "witness.json"
        self._log = folder / "witness.log"
        (self._port,) = free_ports(1)
        self.key = self._run("init", "--name", NAME, "--listen", f"127.0.0.1:{self._port}").strip()
        self._child: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self._port

    @property
    def line(self) -> str:
        """As it stands in a gateway's configuration."""
        return f"{self.key} http://127.0.0.1:{self._port}"

    def trust(self, origin: str, verifier_key: str) -> None:
        """Add a log, as the witness's operator does."""
        self._run("add-log", "--origin", origin, "--vkey", verifier_key)

    def size(self) -> int:
        """Entries of the newest head that it has cosigned, as it tells itself; 0 for none."""
        (log,) = self._told()["logs"]
        return int(log.get("size") or 0)

    def evidence(self) -> int:
        """Requests that it keeps because they contradict what it has seen."""
        (log,) = self._told()["logs"]
        return int(log["evidence"])

    def _told(self) -> Any:
        return json.loads(self._run("status", "--json"))

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 - the program of the test's own environment
            [self._program, arguments[0], "--config", str(self._config), *arguments[1:]],
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def start(self) -> None:
        """Serve, and wait until it answers."""
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                self._program, "serve", "--config", str(self._config), stdout=log, stderr=log, start_new_session=True
            )

        async def answers() -> bool:
            try:
                _, writer = await asyncio.open_connection(*self.address)
            except OSError:
                return False
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return True

        await comes_true("the witness answers", answers)

    async def stop(self) -> None:
        """End it; safe to call twice."""
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.terminate()
            await asyncio.wait_for(child.wait(), DEADLINE_S)

    def log_end(self) -> str:
        """The end of what it has written."""
        return self._log.read_text(encoding="utf-8")[-2000:] if self._log.exists() else ""
