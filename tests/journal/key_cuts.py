"""Makes one change of a keyring again and again, each time ended by the kernel before another step on the disk.

A process of its own, because each try is a fork of it. Arguments: a folder of keys, a folder for the tries, a change.
Prints how many steps there were; the try that was ended before step N is in the folder N, the one that came to its end
in the last one.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.journal import key_changes
from gateway.journal.keyring import KeyPurpose

CHANGES: dict[str, Callable[[Path], object]] = {
    "rotate": lambda keys: key_changes.rotate(keys, None, KeyPurpose.ACCOUNT, "ann", "why", 5),
    "destroy": lambda keys: key_changes.destroy(keys, None, 2, "ann", "why", 5),
    "rewrap": lambda keys: key_changes.rewrap(keys, None, None, "ann", "why", 5),
    "told": lambda keys: key_changes.event_told(keys, None, 1, 17),
}
STEPS = ("fsync", "link", "unlink", "rename", "replace", "pwrite", "write", "open")


def end_before(step: int) -> None:
    """This process ends, at once and without tidying, where it is about to take step number `step` on the disk."""
    left = step

    def count() -> None:
        nonlocal left
        left -= 1
        if not left:
            os._exit(9)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any, **named: Any) -> Any:
            count()
            return real(*arguments, **named)

        return stepping

    def opening(*arguments: Any, **named: Any) -> Any:
        count()
        opened = real_open(*arguments, **named)
        count()  # a file that was opened to be written anew is empty here
        return opened

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    real_open, io.open = io.open, opening


def main(keys: Path, tries: Path, change: str) -> int:
    """The number of the try that came to its end."""
    step = 0
    while True:
        step += 1
        folder = tries / str(step)
        shutil.copytree(keys, folder)
        child = os.fork()
        if not child:
            end_before(step)
            CHANGES[change](folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return step
        assert code == 9, code


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
