"""Take away one safeguard after the other, and show what noticed.

python -m tests.safeguards              the table of tests/README.md, anew
python -m tests.safeguards NAME ...     these only
python -m tests.safeguards --json       a line for each
python -m tests.safeguards --serve      names from standard input, a line of JSON for each (for the test of this)
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import cache

from tests.safeguards.kinds import Safeguard
from tests.safeguards.runs import Verdict, collect, run
from tests.safeguards.table import BY_NAME, HEAD, chosen, row_of


@cache
def in_place(check: str) -> Verdict:
    """What a check says while everything is there."""
    return run(check, None)


def tell(safeguard: Safeguard) -> str:
    """A line of JSON: the check without one safeguard, and the test that failed with all of them."""
    broken = run(safeguard.check, safeguard)
    whole = in_place(broken.failed or safeguard.check)
    return json.dumps(
        {
            "name": safeguard.name,
            "rule": safeguard.rule,
            "check": safeguard.check,
            "in_place": asdict(whole),
            "removed": asdict(broken),
            "missed": broken.noticed(safeguard),
        }
    )


def serve() -> int:
    """Answer names until there are no more."""
    collect(each.check for each in chosen([]))
    print("ready", flush=True)
    for line in sys.stdin:
        print(tell(BY_NAME[line.strip()]), flush=True)
    return 0


def renew(names: list[str], *, as_json: bool) -> int:
    """Show the table; 1 where something was not noticed."""
    safeguards = chosen(names)
    print(f"collecting the checks of {len(safeguards)} safeguards ...", file=sys.stderr, flush=True)
    collect(each.check for each in safeguards)
    missed = 0
    if not as_json:
        print(HEAD)
    for number, safeguard in enumerate(safeguards, start=1):
        line = tell(safeguard)
        told = json.loads(line)
        whole, broken = Verdict(**told["in_place"]), Verdict(**told["removed"])
        why = told["missed"] or (f"it fails with it, too: {whole.words}" if whole.failed else "")
        print(line if as_json else row_of(safeguard, broken), flush=True)
        if why:
            missed += 1
            print(f"{safeguard.name}: {why}", file=sys.stderr, flush=True)
        elif sys.stderr.isatty():
            print(f"{number} of {len(safeguards)}", end="\r", file=sys.stderr, flush=True)
    return 1 if missed else 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.safeguards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BY_NAME]:
        parser.error(f"no safeguard is called {', '.join(unknown)}")
    return serve() if given.serve else renew(given.names, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
