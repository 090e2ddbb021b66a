"""What makes the inputs of a long run: atheris where it is installed, by coverage; else hypothesis, by structure."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings

CRASHED: Final = 77
"""Exit status of a run that has found something; libFuzzer's own."""

_ROUND_EXAMPLES: Final = 500
_WORDS: Final = (b"[]", b"{}", b"[[", b'""', b"true", b"-1", b"0x", b"\x00\x00", b"\xff\xff", b"9999")
"""Beside a surface's own costly pieces, what libFuzzer puts in whole."""
_ATHERIS_INPUT_TIMEOUT_S: Final = 10
_ATHERIS_MEMORY_MB: Final = 1024


def engine_name() -> str:
    """The engine that runs here."""
    return "atheris" if importlib.util.find_spec("atheris") is not None else "hypothesis"


def run_atheris(name: str, seconds: int, corpus: Path, crashes: Path) -> None:
    """Fuzz one surface; ends the process, with CRASHED and the input in `crashes` where something was found."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["protocol", "gateway"]):
        surface = importlib.import_module("tests.fuzz.every").surfaces()[name]
    for number, first in enumerate(surface.seeds):
        (corpus / f"seed-{number}").write_bytes(first)

    words = corpus.with_suffix(".dict")
    entries = ("".join(f"\\x{octet:02x}" for octet in word) for word in (*_WORDS, *surface.worst) if len(word) <= 32)
    words.write_text("".join(f'"{entry}"\n' for entry in entries), encoding="ascii")

    def one(data: bytes) -> None:
        surface.feed(data)

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={surface.size_max}",
            f"-timeout={_ATHERIS_INPUT_TIMEOUT_S}",
            f"-rss_limit_mb={_ATHERIS_MEMORY_MB}",
            f"-artifact_prefix={crashes}{os.sep}{name}-",
            f"-dict={words}",
            "-print_final_stats=1",
            str(corpus),
        ],
        one,
    )
    atheris.Fuzz()


def run_hypothesis(name: str, seconds: int, crashes: Path) -> int:
    """The same by hypothesis' own engine, a round of examples after another, each with a seed of its own.

    Returns:
        0, or CRASHED with the smallest input that was found in `crashes`.
    """
    logging.disable()
    surface = importlib.import_module("tests.fuzz.every").surfaces()[name]
    hostile = importlib.import_module("tests.fuzz.inputs").hostile
    newest = b""
    until = time.monotonic() + seconds
    rounds = fed = 0

    @settings(
        max_examples=_ROUND_EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile(surface.seeds))
    def one(data: bytes) -> None:
        nonlocal newest, fed
        newest = data
        fed += 1
        surface.feed(data)

    first_seed = time.time_ns()
    while time.monotonic() < until:
        try:
            seed(first_seed + rounds)(one)()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            # Hypothesis runs the smallest one last.
            path = crashes / f"{name}-crash-{first_seed + rounds}"
            path.write_bytes(newest)
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return CRASHED
        rounds += 1
        if rounds % 20 == 0:
            print(f"  {fed} inputs", flush=True)
    print(f"  {fed} inputs in {rounds} rounds", flush=True)
    return 0
