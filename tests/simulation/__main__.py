"""`python -m tests.simulation run|replay|safeguards`: seeds by the thousand, one run with its trace, and the table."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from tests.simulation.invariants import KNOWN
from tests.simulation.runs import STEPS, Outcome, run_script, run_seed
from tests.simulation.shrink import Shrinker
from tests.simulation.steps import Script, parse_script
from tests.simulation.table import write_table

_CHUNK: Final = 25
_FAILED: Final = Path(__file__).parents[2] / "build" / "simulation"


class Progress:
    """Tells every two seconds how far it is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = self._told = time.monotonic()

    def at(self, done: int) -> None:
        """So many seeds are done."""
        now = time.monotonic()
        if now - self._told >= 2:
            self._told = now
            rate = done / (now - self._began)
            left = (self._total - done) / rate if rate else 0.0
            say(f"{done} of {self._total} seeds, {rate:.0f} a second, {left:.0f} s left")


def say(text: str) -> None:
    """A line for whoever waits."""
    print(text, flush=True)


def seeds_of(text: str) -> range:
    """`A..B`, both included, or one seed."""
    first, dots, last = text.partition("..")
    return range(int(first), int(last if dots else first) + 1)


def failing(chunk: Sequence[int], count: int) -> tuple[int, list[int]]:
    """Run some seeds; how many there were, and those that failed."""
    return len(chunk), [seed for seed in chunk if run_seed(seed, count).failure is not None]


@contextmanager
def results(seeds: range, count: int, jobs: int) -> Iterator[Iterator[tuple[int, list[int]]]]:
    """What becomes of the seeds, chunk by chunk, as it comes."""
    chunks = (seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK))
    if jobs == 1:
        yield (failing(chunk, count) for chunk in chunks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield _in_order(pool, chunks, count, 4 * jobs)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, chunks: Iterator[range], count: int, ahead: int
) -> Iterator[tuple[int, list[int]]]:
    waiting = [pool.submit(failing, chunk, count) for chunk in islice(chunks, ahead)]
    while waiting:
        yield waiting.pop(0).result()
        waiting.extend(pool.submit(failing, chunk, count) for chunk in islice(chunks, 1))


def run(seeds: range, count: int, jobs: int, failures_max: int) -> int:
    """Run seeds; shrink and show the first that fail. Returns the exit code."""
    began = time.monotonic()
    progress = Progress(len(seeds))
    failed: list[int] = []
    done = 0
    with results(seeds, count, jobs) as outcomes:
        for number, bad in outcomes:
            done += number
            failed += bad
            progress.at(done)
            if len(failed) >= failures_max:
                break
    for seed in failed[:failures_max]:
        report(seed, run_seed(seed, count))
    rate = done / max(0.001, time.monotonic() - began)
    say(f"{done} seeds of {count} steps, {len(failed)} failed, {rate:.0f} seeds a second")
    return 1 if failed else 0


def report(seed: int, outcome: Outcome) -> None:
    """Shrink a failing run, show it, and keep it in a file."""
    failure = outcome.failure
    assert failure is not None
    say(f"seed {seed}, {failure.rule}: {failure.text}; shrinking for up to a minute ...")
    short = Shrinker(outcome, tell=say).shrink()
    text = f"# seed {seed}: {failure.rule}\n# {short.failure.text if short.failure else ''}\n{short.script.text()}"
    _FAILED.mkdir(parents=True, exist_ok=True)
    path = _FAILED / f"seed-{seed}.txt"
    path.write_text(text, encoding="utf-8")
    say(f"{text}written to {path}")


def replay(what: str, count: int, *, strict: bool) -> int:
    """Replay a script or a seed with its trace. Returns the exit code."""
    excused = frozenset[str]() if strict else frozenset(KNOWN)
    path = Path(what)
    if path.exists():
        script: Script = parse_script(path.read_text(encoding="utf-8"))
    else:
        script = run_seed(int(what), count).script
    outcome = run_script(script, traced=True, excused=excused)
    assert outcome.trace is not None
    say("\n".join(outcome.trace.lines))
    say(f"trace {outcome.trace.digest}")
    if outcome.failure is not None:
        say(f"step {outcome.failure.at}, {outcome.failure.rule}: {outcome.failure.text}")
        return 1
    return 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run seeds")
    running.add_argument("--seeds", type=seeds_of, default=range(1_000), metavar="A..B")
    running.add_argument("--steps", type=int, default=STEPS)
    running.add_argument("--jobs", type=int, default=1)
    running.add_argument("--failures", type=int, default=3, help="stop at so many failures")
    replaying = commands.add_parser("replay", help="replay a script or a seed with its trace")
    replaying.add_argument("what", metavar="FILE|SEED")
    replaying.add_argument("--steps", type=int, default=STEPS)
    replaying.add_argument("--strict", action="store_true", help="do not pass over known defects")
    commands.add_parser("safeguards", help="take away one safeguard after the other; renews tests/README.md")
    given = parser.parse_args()
    os.nice(5)
    if given.command == "run":
        return run(given.seeds, given.steps, given.jobs, given.failures)
    if given.command == "replay":
        return replay(given.what, given.steps, strict=given.strict)
    return write_table(say)


if __name__ == "__main__":
    sys.exit(main())
