"""A headless Chromium, driven over its own protocol (DevTools) on a loopback port that it chooses.

It comes from Debian (`chromium`); CHROMIUM names another. It has no profile but a new one, and nothing to talk to.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import aiohttp

from tests.crash.amounts import missing

T = TypeVar("T")
_PATIENCE_S: Final = 120
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_SWITCHES: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)  # fmt: skip


def chromium() -> str:
    """The program."""
    named = os.environ.get("CHROMIUM")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    return found or missing("no Chromium: apt-get install chromium")


class PageFailed(AssertionError):
    """The page threw, or the browser refused a command."""


class Chromium:
    """One browser with one page. Synchronous: each call runs the loop until it is answered.

    Attributes:
        requested: URLs that the page asked for, in order.
    """

    def __init__(self) -> None:
        self._program = chromium()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.requested: list[str] = []

    def __enter__(self) -> Chromium:
        self._runner = asyncio.Runner()
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        try:
            self._run(self._start())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def open(self, page: Path) -> None:
        """Load a file, and wait until it is loaded."""

        address = page.resolve().as_uri()

        async def opening() -> None:
            self._loaded.clear()
            self.requested.clear()
            await self._call("Page.navigate", url=address)
            async with asyncio.timeout(_PATIENCE_S):
                await self._loaded.wait()

        self._run(opening())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to.

        Raises:
            PageFailed: it threw.
        """

        async def evaluating() -> Any:
            answer = await self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
            if "exceptionDetails" in answer:
                raise PageFailed(json.dumps(answer["exceptionDetails"])[:2000])
            return answer["result"].get("value")

        return self._run(evaluating())

    def choose(self, selector: str, *paths: Path) -> None:
        """Choose files or a folder in a file input, as a person does in the dialogue; wait until it is listed."""
        found = f"document.querySelector({json.dumps(selector)})"
        files = [str(path.resolve()) for path in paths]

        async def choosing() -> None:
            there = await self._call("Runtime.evaluate", expression=found)
            await self._call("DOM.setFileInputFiles", files=files, objectId=there["result"]["objectId"])

        self.evaluate(
            f"{found}.listed = new Promise(done => {found}.addEventListener('change', done, {{ once: true }})), 0"
        )
        self._run(choosing())
        self.evaluate(f"{found}.listed.then(() => 0)")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def _start(self) -> None:
        self._browser = await asyncio.create_subprocess_exec(
            self._program,
            *_SWITCHES,
            f"--user-data-dir={self._profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_PATIENCE_S):
            address = await self._address()
            self._drained = asyncio.create_task(self._drain())
            self._session = aiohttp.ClientSession()
            host = address.split("/")[2]
            async with self._session.get(f"http://{host}/json/list") as listed:
                pages = [each for each in await listed.json() if each["type"] == "page"]
            self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Network"):
            await self._call(f"{domain}.enable")

    async def _address(self) -> str:
        assert self._browser.stderr is not None
        said = []
        while line := await self._browser.stderr.readline():
            said.append(line.decode(errors="replace"))
            if found := re.search(r"DevTools listening on (ws://\S+)", said[-1]):
                return found[1]
        raise PageFailed("Chromium ended: " + "".join(said)[-2000:])

    async def _drain(self) -> None:
        """Keep the browser from waiting for somebody to read what it complains about."""
        assert self._browser.stderr is not None
        while await self._browser.stderr.readline():
            pass

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif said["method"] == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_PATIENCE_S):
            answer = await self._answers[number]
        if "error" in answer:
            raise PageFailed(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _stop(self) -> None:
        async def stopping() -> None:
            if hasattr(self, "_socket"):
                await self._socket.close()
                await self._reader
            if hasattr(self, "_session"):
                await self._session.close()
            if hasattr(self, "_browser"):
                if self._browser.returncode is None:
                    self._browser.kill()
                await self._browser.wait()
            if hasattr(self, "_drained"):
                await self._drained

        self._run(stopping())
        self._runner.close()
        shutil.rmtree(self._profile, ignore_errors=True)
