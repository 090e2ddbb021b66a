"""A process that holds keys leaves no image of its memory behind, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.core_dumps import memory_remarks
from tests.gateway.shop import comes_true, open_shop, play

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="core files as Linux makes them")

CRASH: Final = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
os.chdir(sys.argv[1])
if sys.argv[2] == "refusing-by-attribute":
    resource.setrlimit = lambda *_: None
if sys.argv[2] != "usual":
    from gateway.core_dumps import refuse_core_dumps
    assert refuse_core_dumps()
secret = b"canary-" * 1000
signal.signal(int(sys.argv[3]), signal.SIG_DFL)  # whoever started the tests may have it ignored
os.kill(os.getpid(), int(sys.argv[3]))
"""


def crashed(folder: Path, how: str, number: int) -> list[str]:
    """Names of the core files that a process leaves which dies of a signal."""
    ran = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", CRASH, str(folder), how, str(number)],
        check=False, cwd=Path(__file__).parents[1], capture_output=True, timeout=30,
    )  # fmt: skip
    assert ran.returncode == -number, ran.stderr
    return [path.name for path in folder.iterdir()]


def cores_are_files() -> bool:
    """Whether this system writes core files beside the process at all, and lets us ask for one."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    return re.fullmatch(r"[a-z.%]+", pattern) is not None and resource.getrlimit(resource.RLIMIT_CORE)[1] != 0


@pytest.mark.skipif(not cores_are_files(), reason="this system writes no core files beside a process")
@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGQUIT, signal.SIGSEGV])
def test_a_process_that_refuses_leaves_no_core_and_one_that_does_not_leaves_one(tmp_path: Path, number: int) -> None:
    for how in ("usual", "refusing", "refusing-by-attribute"):
        (tmp_path / how).mkdir()
    assert crashed(tmp_path / "usual", "usual", number), "this machine makes no core: the test shows nothing"
    assert crashed(tmp_path / "refusing", "refusing", number) == []
    assert crashed(tmp_path / "refusing-by-attribute", "refusing-by-attribute", number) == []


@contextlib.contextmanager
def cores_allowed() -> Iterator[None]:
    """What is started meanwhile would leave a core of any size, if it did not refuse to."""
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)


def cores_here() -> set[tuple[str, int]]:
    """The core files where gateways of tests are started, and their times: one may take an older one's place."""
    return {(path.name, path.stat().st_mtime_ns) for path in Path.cwd().glob("core*") if path.is_file()}


def core_limit(pid: int) -> str:
    """The kernel's line about the size of this process's core file."""
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line.startswith("Max core file size"))


def test_a_gateway_that_is_aborted_leaves_no_core(tmp_path: Path) -> None:
    async def story() -> None:
        async with open_shop(tmp_path) as shop:
            pid = shop.gateway.pid
            assert core_limit(pid).split()[4] == "0"
            os.kill(pid, signal.SIGABRT)
            await comes_true("the gateway is gone", lambda: not shop.gateway.running)

    before = cores_here()
    with cores_allowed():
        play(story())
    assert cores_here() == before


def unread(pipe: int) -> int:
    """How many bytes lie in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.skipif(not cores_are_files(), reason="this system writes no core files beside a process")
def test_a_command_that_is_given_a_card_number_and_aborted_leaves_no_core() -> None:
    before = cores_here()
    with cores_allowed():
        child = subprocess.Popen(
            [sys.executable, "-m", "gateway", "decode", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
    assert child.stdin is not None
    child.stdin.write(b"4761739001010010\n")
    child.stdin.flush()
    deadline_s = time.monotonic() + 30
    while unread(child.stdin.fileno()):
        assert time.monotonic() < deadline_s, "it does not read"
        time.sleep(0.01)
    child.send_signal(signal.SIGABRT)
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGABRT
    assert cores_here() == before


def test_swap_that_is_not_encrypted_is_worth_a_remark(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    head = "Filename\tType\tSize\tUsed\tPriority\n"
    swaps.write_text(head + "/dev/dm-1 partition 8 0 -2\n/dev/zram0 partition 8 0 5\n")
    assert not [each for each in memory_remarks(swaps) if each.startswith("swap")]
    swaps.write_text(head + "/swap.img file 8 0 -2\n")
    assert [each for each in memory_remarks(swaps) if each.startswith("swap: /swap.img")]
    assert not [each for each in memory_remarks(tmp_path / "none") if each.startswith("swap")]
