"""The build of the interpreter is told with what it was concluded from, and remarked upon where it costs speed."""

from __future__ import annotations

import io
import platform
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench.load.compare import CompareOptions, compare
from bench.load.fingerprint import fingerprint
from bench.load.interpreter import interpreter_remark, optimised_build, python_build
from bench.load.report_html import rendered
from bench.load.report_text import show
from bench.load.results import Optimised, PythonBuild, Results
from protocol.compiled import code_kind
from tests.bench.load.documents import outage_run

PLAIN = {"CONFIG_ARGS": "'--prefix=/opt/python' '--enable-shared'", "PY_CFLAGS": "-DNDEBUG -g -O3"}


def ran_with(optimised: Optimised, code: str = "interpreted") -> Results:
    results = outage_run(1, values=400)
    build = PythonBuild(version="3.11.7", compiled_with="CPython, GCC 12.2.0", optimised=optimised, because="a reason")
    where = msgspec.structs.replace(results.fingerprint, python=build, gateway_code=code)
    return msgspec.structs.replace(results, fingerprint=where)


def text_of(results: Results) -> str:
    console = Console(file=io.StringIO(), no_color=True, width=140)
    show(results, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("settings", "prefix", "optimised", "because"),
    [
        (PLAIN, "/opt/python", Optimised.NO, "neither"),
        # A Makefile knows the flag of every build; only the flags that were used count.
        (PLAIN | {"PGO_PROF_USE_FLAG": "-fprofile-use"}, "/opt/python", Optimised.NO, "neither"),
        (PLAIN | {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"}, "/usr/local", Optimised.YES, "configure"),
        (PLAIN | {"CONFIG_ARGS": "'--enable-optimizations'"}, "/usr", Optimised.YES, "configure"),
        (PLAIN | {"PY_CFLAGS_NODIST": "-O3 -fprofile-use -fprofile-correction"}, "/usr", Optimised.YES, "NODIST"),
        (PLAIN | {"PY_CORE_CFLAGS": "-fprofile-instr-use=code.profclangd"}, "/opt", Optimised.YES, "PY_CORE_CFLAGS"),
        (PLAIN | {"PY_CFLAGS": "-fprofile-generate"}, "/opt", Optimised.NO, "neither"),
        (PLAIN, "/usr", Optimised.UNKNOWN, "distribution"),
        ({}, "C:\\Python311", Optimised.UNKNOWN, "does not tell"),
    ],
)
def test_a_build_is_judged_by_what_it_tells_of_itself(
    settings: dict[str, object], prefix: str, optimised: Optimised, because: str
) -> None:
    judged, reason = optimised_build(settings, prefix)
    assert judged is optimised
    assert because in reason


def test_the_fingerprint_tells_the_interpreter_and_whether_the_gateway_is_compiled(tmp_path: Path) -> None:
    told = fingerprint(tmp_path)
    assert told.python == python_build()
    assert told.python is not None
    assert told.python.version == platform.python_version()
    assert told.python.because
    assert sys.base_prefix == "/usr" or sys.base_prefix not in told.python.because
    assert told.gateway_code == code_kind()


@pytest.mark.parametrize("optimised", list(Optimised))
def test_reports_remark_upon_an_interpreter_that_is_not_optimised_and_upon_no_other(optimised: Optimised) -> None:
    results = ran_with(optimised, "compiled, 50 modules")
    text = text_of(results)
    page = rendered(results)
    for said in (text, page):
        assert "Python 3.11.7 (CPython, GCC 12.2.0" in said
        assert "gateway compiled, 50 modules" in said
        assert said.count("about a quarter slower") == (1 if optimised is Optimised.NO else 0)
    assert bool(interpreter_remark(results.fingerprint)) == (optimised is Optimised.NO)


def test_a_document_from_before_says_nothing_of_its_interpreter() -> None:
    older = outage_run(1, values=400)
    assert older.fingerprint.python is None
    assert "optimised" not in text_of(older)
    assert "Ran on" not in rendered(older)


def test_a_comparison_notes_that_one_side_ran_compiled_or_on_another_build() -> None:
    base, options = ran_with(Optimised.NO), CompareOptions(files=["base", "now"])
    for other in (ran_with(Optimised.NO, "compiled, 50 modules"), ran_with(Optimised.YES)):
        (note,) = [line for line in compare([base], [other], ["now"], options).notes if line.startswith("ran on: ")]
        assert "gateway interpreted, now Python" in note
    assert not [line for line in compare([base], [base], ["now"], options).notes if line.startswith("ran on: ")]
