"""The gateway under test: a child process, as it would run in a shop, that can be killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.records import Owed, transaction_key

CONFIG_NAME: Final = "holdfast.toml"
LOG_NAME: Final = "gateway.log"
_STOP_WITHIN_S: Final = 25.0
_OPERATOR_WITHIN_S: Final = 30.0
_PAGE: Final = 1000
_LOG_LINE_MAX: Final = 300
_METRIC: Final = re.compile(r"^holdfast_journal_(commits|syncs)_total ([0-9.e+]+)$", re.MULTILINE)


class _Obligations(msgspec.Struct):
    by_obligation: dict[str, int]


class _Status(msgspec.Struct):
    queue: _Obligations
    counters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Commits:
    """What a journal has done since the gateway's last start; `syncs` is -1 where it does not count them."""

    commits: int
    syncs: int


class _Row(msgspec.Struct):
    id: int
    merchant: str
    terminal: str
    stan: str
    state: str
    reason: str


class _Page(msgspec.Struct):
    transactions: list[_Row]


class GatewayBroken(Exception):
    """The gateway did not do what it was started for; the message has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the gateway under test is configured with. Ports are chosen beforehand, so that a restart keeps them."""

    terminal_port: int
    operations_port: int
    acquirer_port: int
    terminal_dialect: str = "unionpay"
    acquirer_dialect: str = "iso87-binary"
    terminals: int = 50
    host_timeout_ms: int = 1000
    reply_timeout_ms: int = 2000
    longest_flight_ms: int = 2500
    terminal_timeout_ms: int = 4000
    lane_wait_ms: int = 500
    floor_limit_minor: int = 45_000

    def toml(self) -> str:
        """The gateway's configuration file."""
        return f"""\
# Written by the bench: short time limits, wide stand-in limits.
[gateway]
name = "bench"
[journal]
path = "journal.sqlite3"
keys = "keys"
[[terminals]]
listen = "127.0.0.1:{self.terminal_port}"
dialect = "{self.terminal_dialect}"
terminal_timeout_ms = {self.terminal_timeout_ms}
connections_max = {max(2000, 2 * self.terminals)}
connections_per_address_max = {max(2000, 2 * self.terminals)}
[acquirer]
endpoints = ["127.0.0.1:{self.acquirer_port}"]
dialect = "{self.acquirer_dialect}"
host_timeout_ms = {self.host_timeout_ms}
reply_timeout_ms = {self.reply_timeout_ms}
longest_flight_ms = {self.longest_flight_ms}
connect_timeout_ms = 500
reconnect_min_ms = 50
reconnect_max_ms = 500
echo_interval_ms = 500
echo_timeout_ms = 500
down_after_timeouts = 3
[standin]
mode = "on"
floor_limit_minor = {self.floor_limit_minor}
terminal_count_max = 1000000
terminal_total_minor_max = 1000000000000
card_count_max = 1000000
card_total_minor_max = 1000000000000
overall_count_max = 10000000
overall_total_minor_max = 1000000000000
[replay]
lane_wait_ms = {self.lane_wait_ms}
[operations]
listen = "127.0.0.1:{self.operations_port}"
"""


def _depth(queue: _Obligations) -> int:
    """What the gateway owes, without what waits for a person."""
    return sum(count for obligation, count in queue.by_obligation.items() if obligation not in ("none", "person"))


class Gateway:
    """The child process. One at a time; `starts` counts them."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self.folder = folder
        self.setup = setup
        self.config = folder / CONFIG_NAME
        self.starts = 0
        self.start_ms: list[float] = []
        self._child: asyncio.subprocess.Process | None = None
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}

    @property
    def running(self) -> bool:
        """Whether the child is there."""
        return self._child is not None and self._child.returncode is None

    @property
    def pid(self) -> int:
        """The child's process id.

        Raises:
            GatewayBroken: there is no child.
        """
        if self._child is None:
            raise GatewayBroken("the gateway was not started")
        return self._child.pid

    def check_running(self) -> None:
        """Raises GatewayBroken where the child has ended, with the end of its log."""
        if not self.running:
            raise GatewayBroken(f"the gateway ended by itself\n{self.log_end()}")

    async def prepare(self) -> None:
        """Have the gateway make its keys, and write its configuration.

        Raises:
            GatewayBroken: `init` failed.
        """
        code, _, problem = await self._run("init", str(self.folder))
        if code != 0:
            raise GatewayBroken(f"`holdfast init` failed with {code}: {problem.strip()}")
        self.config.write_text(self.setup.toml(), encoding="utf-8")

    async def start(self, ready_within_s: float = 20.0) -> None:
        """Start the child and wait until it says that it is ready.

        Raises:
            GatewayBroken: it ended, or was not ready in time.
        """
        started = time.monotonic()
        self.starts += 1
        with (self.folder / LOG_NAME).open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway",
                "run",
                "-c",
                str(self.config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        while not await self.ready():
            if not self.running:
                raise GatewayBroken(f"the gateway ended with {self._child.returncode}\n{self.log_end()}")
            if time.monotonic() - started > ready_within_s:
                raise GatewayBroken(f"the gateway was not ready within {ready_within_s:g} s\n{self.log_end()}")
            await asyncio.sleep(0.05)
        self.start_ms.append((time.monotonic() - started) * 1000)

    async def kill(self) -> None:
        """`kill -9`: what a power cut is to a process."""
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(signal.SIGKILL)
            await self._child.wait()

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL if that does not help in time.

        Returns:
            The child's exit status; 0 where there was none.
        """
        child = self._child
        if child is None:
            return 0
        if child.returncode is None:
            child.terminate()
            try:
                await asyncio.wait_for(child.wait(), _STOP_WITHIN_S)
            except TimeoutError:
                await self.kill()
        return child.returncode or 0

    async def operate(self, *words: str) -> None:
        """Run one of the operator's commands, such as `maintenance on --why ...`, as an operator would.

        Raises:
            GatewayBroken: it did not end with 0.
            TimeoutError: it did not end in time.
        """
        code, told, problem = await self._run(*words, "-c", str(self.config))
        if code != 0:
            raise GatewayBroken(f"`holdfast {' '.join(words)}` ended with {code}: {(told + problem).strip()}")

    async def ready(self) -> bool:
        """Whether GET /readyz says 200."""
        return await self._get("/readyz", within_s=2) is not None

    async def online(self, within_s: float) -> bool:
        """Wait until the gateway believes that the acquirer answers; False when it does not in time."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            body = await self._get("/v1/status")
            if body is not None and json.loads(body)["acquirer"]["link"] == "up":
                return True
            await asyncio.sleep(0.02)
        return False

    async def queue_depth(self) -> int | None:
        """How many transactions still owe something that the gateway can do by itself; None while nobody can say."""
        answer = await self._get("/v1/status")
        if answer is None:
            return None
        return _depth(msgspec.json.decode(answer, type=_Status).queue)

    async def commits(self) -> Commits | None:
        """Group commits and syncs of the journal; None where the gateway cannot be asked."""
        answer = await self._get("/metrics")
        if answer is None:
            return None
        told = dict(_METRIC.findall(answer.decode()))
        return Commits(int(float(told.get("commits", -1))), int(float(told.get("syncs", -1))))

    async def counters(self) -> dict[str, int]:
        """The gateway's own counters since its last start, without those that are 0; empty where it cannot be asked."""
        answer = await self._get("/v1/status")
        if answer is None:
            return {}
        counters = msgspec.json.decode(answer, type=_Status).counters
        return {name: count for name, count in counters.items() if count}

    async def drained(self, within_s: float) -> int | None:
        """Wait until nothing is owed that the gateway can do by itself; the depth at the end.

        Raises:
            GatewayBroken: the gateway ended meanwhile.
        """
        until = time.monotonic() + within_s
        while True:
            depth = await self.queue_depth()
            if depth == 0 or time.monotonic() > until:
                return depth
            if not self.running:
                raise GatewayBroken(f"the gateway ended while it drained\n{self.log_end()}")
            await asyncio.sleep(0.2)

    async def queue(self) -> list[Owed]:
        """Everything that still owes something, what waits for a person included.

        Raises:
            GatewayBroken: the listing cannot be had.
        """
        owed: list[Owed] = []
        after = 0
        while True:
            answer = await self._get(f"/v1/queue?after={after}&limit={_PAGE}")
            if answer is None:
                raise GatewayBroken(f"the gateway's queue cannot be listed\n{self.log_end()}")
            rows = msgspec.json.decode(answer, type=_Page).transactions
            for row in rows:
                key = transaction_key(row.merchant, row.terminal, row.stan)
                owed.append(Owed(key=key, state=row.state, reason=row.reason))
                after = row.id
            if len(rows) < _PAGE:
                return owed

    async def _get(self, target: str, within_s: float = 20.0) -> bytes | None:
        """The body of a 200 answer of the operations listener, else None."""
        try:
            async with asyncio.timeout(within_s):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.setup.operations_port)
                try:
                    writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        return body if head.split(b" ", 2)[1:2] == [b"200"] else None

    async def _run(self, *arguments: str) -> tuple[int, str, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        try:
            output, problem = await asyncio.wait_for(child.communicate(), _OPERATOR_WITHIN_S)
        except (TimeoutError, asyncio.CancelledError):
            child.kill()
            await child.wait()
            raise
        return child.returncode or 0, output.decode(), problem.decode()

    def log_end(self, lines: int = 8) -> str:
        """The last lines of the child's log."""
        try:
            text = (self.folder / LOG_NAME).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(line[:_LOG_LINE_MAX] for line in text.splitlines()[-lines:])
