"""A disk that has no room for a file's content: its name is made, and then nothing more fits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest


def fill_up_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let syncing a file whose name holds `name` fail, from now on."""
    sync = os.fsync

    def full(descriptor: int) -> None:
        if name in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
