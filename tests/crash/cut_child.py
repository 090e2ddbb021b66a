"""Writes to a journal and says on standard output, line by line, what was acknowledged; ends when it is killed.

Keeps forty-eight writes in flight, as killed_child.py does, and can lack a safeguard. Run by the tests of this folder.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.crash.safeguards import SAFEGUARDS
from tests.journal.killed_child import write_on

if __name__ == "__main__":
    if len(sys.argv) > 3:
        SAFEGUARDS[sys.argv[3]]()
    asyncio.run(write_on(Path(sys.argv[1]), sys.argv[2]))
