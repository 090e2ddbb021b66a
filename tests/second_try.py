"""What failed in `make tests`, once more, alone: `python -m tests.second_try`, after a run that had failures.

Hundreds of these tests start gateways, kill them and give networks and disks a deadline; two busy cores that stop for
seconds make one of thousands fail now and then. So up to three may be tried again, one after the other, with nothing
beside them. A fault of the product fails again. What passes is named as UNSTEADY, and its first failure stands above:
it wants mending all the same. Tests without processes, sockets and deadlines have no excuse and get no second try.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

TRIED_AGAIN_MAX: Final = 3
NO_EXCUSE: Final = ("tests/core/", "tests/protocol/", "tests/simulation/")
_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")


def second_try(failed: Path) -> int:
    """Run the tests that a file of pytest's names as failed.

    Returns:
        0 where all pass; 1 where one fails, or where they may not be tried again.
    """
    try:
        names: list[str] = sorted(json.loads(failed.read_text()))
    except (OSError, ValueError) as error:
        print(f"no second try: which tests failed cannot be read: {error}")
        return 1
    steady = [name for name in names if name.startswith(NO_EXCUSE) or "::" not in name]
    if not names or steady or len(names) > TRIED_AGAIN_MAX:
        print(f"no second try: {len(names)} failed ({TRIED_AGAIN_MAX} may), of which {len(steady)} have no excuse")
        return 1
    print(f"a second try, alone, of {', '.join(names)}", flush=True)
    if subprocess.run([sys.executable, "-m", "pytest", "-p", "no:xdist", *names], check=False).returncode:  # noqa: S603
        print("failed again")
        return 1
    for name in names:
        print(f"UNSTEADY: {name} failed above, and passed alone")
    return 0


if __name__ == "__main__":
    sys.exit(second_try(_FAILED))
