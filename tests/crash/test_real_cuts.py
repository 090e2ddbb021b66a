"""Power cuts by the kernel itself: an ext4 file system on a loop device is shut down without its log, while writing.

`FS_IOC_SHUTDOWN` with NOLOGFLUSH stops a file system as a power cut would: what it has not sent to its device is gone,
the log replays at the next mount. Everything that was acknowledged must be there then (INV-1).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gateway.journal.keyring import create_keyring, load_keyring
from gateway.journal.port import JournalUnreadable, Listing
from tests.crash.amounts import LIMIT_S, TIMES, missing
from tests.crash.tracing import ROOT
from tests.journal.rig import Rig, sqlite_make

CUTS: Final = 20 * TIMES
CUTS_BROKEN: Final = 6
DISK_MIB: Final = 64
FS_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = 2

Told = dict[int, str]
"""Keys of transactions by id."""

pytestmark = pytest.mark.timeout(LIMIT_S)


def system(*command: str) -> str:
    """Why a command failed; empty where it did not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    return "" if done.returncode == 0 else (done.stderr.strip() or f"{command[0]} ended with {done.returncode}")


@dataclass(frozen=True, slots=True)
class LoopDisk:
    """A file that is a disk, with an ext4 file system that can be cut off."""

    image: Path
    folder: Path

    def mount(self) -> str:
        """Why it cannot be mounted; empty where it is."""
        return system("mount", "-o", "loop", str(self.image), str(self.folder))

    def cut(self) -> None:
        """Cut the power of the file system."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("<I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Take it away; whoever had files open there has ended, but the kernel may need a moment."""
        for _ in range(100):
            problem = system("umount", str(self.folder))
            if not problem:
                return
            time.sleep(0.02)
        raise AssertionError(problem)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    """A mounted one."""
    if sys.platform != "linux" or os.geteuid() != 0:
        missing("mounting a loop device takes root on Linux")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_MIB * 1024 * 1024)
    try:
        problem = system("mkfs.ext4", "-q", "-F", str(image))
    except FileNotFoundError:
        missing("mkfs.ext4 is not installed: apt-get install e2fsprogs")
    made = LoopDisk(image, folder)
    if problem := problem or made.mount():
        missing(f"no loop device with ext4 can be mounted here: {problem}")
    yield made
    with contextlib.suppress(AssertionError):
        made.unmount()


def lines(child: subprocess.Popen[bytes]) -> Iterator[list[tuple[int, str]]]:
    """Numbers and keys as the child tells them, as many at a time as there are in the pipe; ends with the child."""
    assert child.stdout is not None
    rest = b""
    while more := os.read(child.stdout.fileno(), 1 << 20):
        *whole, rest = (rest + more).split(b"\n")
        yield [(int(number), key) for key, number in (line.decode().split() for line in whole)]


def acknowledged(disk: LoopDisk, run: str, acknowledged_min: int, broken: str) -> tuple[Told, Told]:
    """Let a child write, cut the power once it has acknowledged so many, then kill it.

    Returns:
        What it had acknowledged before the cut, and what it acknowledged after: the kernel goes on where a power cut
        would not, and a sync that it is in the middle of may then return without an error although its log is gone.
    """
    before: Told = {}
    after: Told = {}
    command = [sys.executable, "-m", "tests.crash.cut_child", str(disk.folder), run, *([broken] if broken else [])]
    with subprocess.Popen(  # noqa: S603 - our own child
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as child:
        running = True
        for told in lines(child):
            (before if running else after).update(told)
            if running and len(before) >= acknowledged_min:
                running = False
                disk.cut()
                child.kill()
    return before, after


def lost_in(disk: LoopDisk, told: Told, *, careless: bool = False) -> int:
    """How many of the acknowledged are not there, or under another number.

    A journal that has lost some may be refused, for its mark tells; if `careless`, the mark is moved away then.
    """
    rig = Rig(sqlite_make(disk.folder / "journal.db", load_keyring(disk.folder / "keys")))
    try:
        rig.open()
    except JournalUnreadable:
        if not careless:
            raise
        (disk.folder / "journal.db-mark").unlink()
        rig.open()
    rows = {row.id: row.key for row in rig.run(rig.journal.listing(Listing(states=frozenset(), limit=10**9)))}
    rig.close()
    assert rig.damaged == []
    assert sorted(rows) == list(range(1, len(rows) + 1)), "sequences are dense"
    return sum(rows.get(number) != key for number, key in told.items())


def cut_again_and_again(disk: LoopDisk, cuts: int, broken: str = "") -> tuple[int, int]:
    """Cut so often; how many transactions were acknowledged, and how many of them were lost."""
    Rig(sqlite_make(disk.folder / "journal.db", create_keyring(disk.folder / "keys"))).open().close()
    dice = random.Random(len(broken))
    told: Told = {}
    count = lost = 0
    for number in range(cuts):
        new, _ = acknowledged(disk, f"run{number}", dice.randrange(1, 600), broken)
        assert new, "the child has ended by itself"
        disk.unmount()
        assert not disk.mount()
        count += len(new)
        told |= new
        lost += lost_in(disk, new if broken else told, careless=bool(broken))
    return count, lost


def test_what_was_acknowledged_outlives_a_power_cut_of_a_real_file_system(disk: LoopDisk) -> None:
    count, lost = cut_again_and_again(disk, CUTS)
    print(f"{CUTS} cuts, {count} acknowledged, {lost} lost")
    assert lost == 0
    assert count >= CUTS


def test_without_the_sync_of_each_commit_a_real_file_system_loses_what_was_acknowledged(disk: LoopDisk) -> None:
    count, lost = cut_again_and_again(disk, CUTS_BROKEN, "sync of each commit")
    print(f"{CUTS_BROKEN} cuts, {count} acknowledged, {lost} lost")
    assert lost > 0
