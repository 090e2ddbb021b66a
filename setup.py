"""Builds Holdfast: pure Python, or with HOLDFAST_COMPILE=1 its busiest modules also as extension modules (mypyc).

pyproject.toml says everything else. Only compiling wants mypy and a C compiler. HOLDFAST_COMPILE_LEVEL is how much the
C compiler optimises, 3 unless it is set; 0 makes code that means the same, runs slower, and is soon made.
"""

from __future__ import annotations

import ast
import os
import runpy
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

STRUCTS = {f"gateway/core/{name}.py" for name in ("effects", "events", "transaction")}
"""msgspec makes classes of these when they are loaded; compiled they would be others."""

COMPILED = (
    *sorted({one.as_posix() for one in Path().glob("gateway/core/[!_]*.py")} - STRUCTS),
    *(f"gateway/journal/{name}.py" for name in (
        "batch", "bulk", "counters", "draft", "drafted", "groups", "leaving", "log_tree", "newest", "reading",
        "sealing",
    )),
    *(f"gateway/terminals/{name}.py" for name in ("asked", "connection", "iso8583", "limits", "reserve", "turns")),
    "gateway/conductor.py",
    *(f"protocol/iso8583/{name}.py" for name in ("codec", "message", "mti")),
    *(f"protocol/{name}.py" for name in ("framing", "hmac_sha256", "journal_entry", "masking", "transparency/tree")),
)  # fmt: skip
"""What is compiled, said nowhere else: all that decides, and besides it what every sale runs through."""

BUILD = runpy.run_path("protocol/compiled.py")  # not imported: its package refuses the build that is to be renewed


def sources_of(modules: Iterable[str]) -> list[str]:
    """The modules and all that they import of ours, however far: mypyc copies constants and trusts types."""
    found: set[str] = set()
    following = list(modules)
    while following:
        path = following.pop()
        if path in found or not Path(path).is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(Path(path).read_bytes())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
            following += [f"{name.replace('.', '/')}{end}" for name in names for end in (".py", "/__init__.py")]
    return sorted(found)


def refuse_structs(modules: Iterable[str]) -> None:
    """A class of msgspec in a compiled module ends the interpreter when it is loaded.

    Raises:
        SystemExit: it names the first such class.
    """
    for path in modules:
        for node in ast.walk(ast.parse(Path(path).read_bytes())):
            if isinstance(node, ast.ClassDef) and {ast.unparse(base).rpartition(".")[2] for base in node.bases} & {
                "Struct",
                "Veiled",
            }:
                raise SystemExit(f"setup.py: {path}: {node.name} is a class of msgspec: put it in a module of its own")


def extensions() -> list[Extension]:
    """C code of the modules, written below build/; takes most of a minute.

    Raises:
        SystemExit: they do not pass mypy, or cannot be compiled.
    """
    refuse_structs(COMPILED)
    from mypyc.build import mypycify  # noqa: PLC0415 - only who compiles has it

    made: list[Extension] = mypycify(
        ["--config-file", "pyproject.toml", "--cache-dir", "build/mypyc/cache", *COMPILED],
        opt_level=os.environ.get("HOLDFAST_COMPILE_LEVEL", "3"),
        debug_level="0",
        target_dir="build/mypyc",
        group_name=BUILD["NAME"],
    )
    if os.name == "posix":
        for one in made:  # neither lines nor warnings of generated C help anybody, and they take most of the time
            one.extra_compile_args.append("-w")
    return made


class Compile(build_ext):
    """Takes away first what an earlier build left, and writes the manifest last: a build that breaks off has none."""

    def run(self) -> None:
        """Compile into the sources' folders or into the wheel."""
        root = Path() if self.inplace else Path(self.build_lib)
        BUILD["remove"](root)
        super().run()
        BUILD["write_manifest"](root, COMPILED, TAKEN)


ARGUMENTS: dict[str, Any] = {}
if os.environ.get("HOLDFAST_COMPILE"):
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    only_asked = {"egg_info", "dist_info"} & set(sys.argv)  # what the build needs, and what it is called
    TAKEN = BUILD["digests"](Path(), sources_of(COMPILED))
    ARGUMENTS = {
        "cmdclass": {"build_ext": Compile},
        "ext_modules": [Extension(f"{BUILD['NAME']}__mypyc", sources=[])] if only_asked else extensions(),
        "setup_requires": ["mypy>=2.4", *project["dependencies"]],
    }

setup(**ARGUMENTS)
