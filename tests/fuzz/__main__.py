"""`make fuzz`: every surface in turn, each in a process of its own; stops at the first input that breaks one.

    python -m tests.fuzz --seconds 60             every surface for a minute
    python -m tests.fuzz --seconds 60 tlv         one of them
    python -m tests.fuzz --show FILE tlv          run one input again and show it in hex

What atheris learns is kept in tests/fuzz/.corpus, inputs that broke something in tests/fuzz/.crashes; neither is for
git. Such an input belongs into tests/fuzz/test_found.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.fuzz.engines import engine_name, run_atheris, run_hypothesis
from tests.fuzz.names import NAMES

_HERE: Final = Path(__file__).parent
_CRASHES: Final = _HERE / ".crashes"
_GRACE_S: Final = 120
"""For loading, and for the last input."""
_HEX_BYTES_MAX: Final = 4096


def main() -> int:
    """Run what the command line asks for; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="SURFACE", help=f"of {', '.join(NAMES)}; all without any")
    parser.add_argument("--seconds", type=int, default=60, help="for each surface")
    parser.add_argument("--show", type=Path, metavar="FILE", help="run this input through one surface again")
    parser.add_argument("--here", action="store_true", help="run one surface in this process")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown or arguments.seconds < 1 or ((arguments.here or arguments.show) and len(arguments.names) != 1):
        parser.error(f"no such surface: {', '.join(unknown)}" if unknown else "one surface, and at least a second")
    names = tuple(arguments.names) or NAMES
    if arguments.show is not None:
        return _show(names[0], arguments.show)
    if arguments.here:
        return _one(names[0], arguments.seconds)
    return _every(names, arguments.seconds)


def _every(names: tuple[str, ...], seconds: int) -> int:
    engine = engine_name()
    print(f"{len(names)} surfaces, {seconds} s each, {len(names) * seconds} s in all, by {engine}", flush=True)
    if engine != "atheris":
        print("atheris is not installed (pip install '.[fuzz]'): hypothesis makes the inputs, blind to coverage")
    _CRASHES.mkdir(exist_ok=True)
    began = time.monotonic()
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name} ({time.monotonic() - began:.0f} s so far)", flush=True)
        before = set(_CRASHES.iterdir())
        command = [sys.executable, "-m", "tests.fuzz", "--here", "--seconds", str(seconds), name]
        try:
            code = subprocess.run(command, timeout=seconds + _GRACE_S, check=False).returncode  # noqa: S603 - ourselves
        except subprocess.TimeoutExpired:
            print(f"{name} did not end by itself")
            return 1
        found = sorted(set(_CRASHES.iterdir()) - before)
        for path in found:
            print(f"BROKEN: {name} by {path}\n{_hex(path)}\nagain: python -m tests.fuzz --show {path} {name}")
        if code or found:
            return code or 1
    print(f"nothing found in {time.monotonic() - began:.0f} s")
    return 0


def _one(name: str, seconds: int) -> int:
    if engine_name() == "atheris":
        corpus = _HERE / ".corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        _CRASHES.mkdir(exist_ok=True)
        run_atheris(name, seconds, corpus, _CRASHES)
        return 0
    return run_hypothesis(name, seconds, _CRASHES)


def _show(name: str, path: Path) -> int:
    from tests.fuzz.every import surfaces  # noqa: PLC0415 - not before an engine can watch it

    print(_hex(path))
    surfaces()[name].feed(path.read_bytes())
    print("it breaks nothing any more")
    return 0


def _hex(path: Path) -> str:
    data = path.read_bytes()
    rest = f"\n... {len(data)} bytes" if len(data) > _HEX_BYTES_MAX else ""
    return data[:_HEX_BYTES_MAX].hex(" ", 1) + rest


if __name__ == "__main__":
    sys.exit(main())
