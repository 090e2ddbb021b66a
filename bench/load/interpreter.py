"""How the Python that runs the gateway was built: without profile-guided optimisation it is a good deal slower."""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
from collections.abc import Mapping
from typing import Final

from bench.load.results import Fingerprint, Optimised, PythonBuild

_FLAGS: Final = ("PY_CFLAGS", "PY_CFLAGS_NODIST", "PY_CORE_CFLAGS", "CFLAGS", "CFLAGS_NODIST", "PY_CORE_LDFLAGS")
_PROFILE_USED: Final = re.compile(r"-fprofile(-instr)?-use\b")


def python_build() -> PythonBuild:
    """The build of the interpreter that this process runs, which is the gateway's as well."""
    optimised, because = optimised_build(sysconfig.get_config_vars(), sys.base_prefix)
    return PythonBuild(
        version=platform.python_version(),
        compiled_with=f"{platform.python_implementation()}, {platform.python_compiler().strip()}",
        optimised=optimised,
        because=because,
    )


def optimised_build(settings: Mapping[str, object], prefix: str) -> tuple[Optimised, str]:
    """Whether an interpreter was built with profile-guided optimisation, and what that was concluded from.

    Args:
        settings: what the interpreter tells of its build (`sysconfig.get_config_vars`).
        prefix: where the interpreter is installed.
    """
    arguments = settings.get("CONFIG_ARGS")
    if not isinstance(arguments, str):
        return Optimised.UNKNOWN, "it does not tell how it was built"
    if "--enable-optimizations" in arguments:
        return Optimised.YES, "--enable-optimizations among its configure arguments"
    for name in _FLAGS:
        if _PROFILE_USED.search(str(settings.get(name, ""))):
            return Optimised.YES, f"-fprofile-use in {name}"
    if prefix == "/usr":
        # Debian compiles the program and the library apart, and tells the settings of the library's.
        return Optimised.UNKNOWN, "a distribution's, which need not tell how the program itself was built"
    return Optimised.NO, "neither --enable-optimizations nor -fprofile-use in its build settings"


def interpreter_remark(where: Fingerprint) -> str:
    """What a reader of the figures should know of the interpreter; empty where there is nothing to remark."""
    if where.python is None or where.python.optimised is not Optimised.NO:
        return ""
    return (
        f"this Python {where.python.version} was built without profile-guided optimisation, which runs the gateway "
        f"about a quarter slower ({where.python.because})"
    )


def ran_on(where: Fingerprint) -> str:
    """Interpreter and code of the gateway in a few words; empty in a document that does not tell."""
    if where.python is None:
        return ""
    words = {Optimised.YES: "optimised by profile", Optimised.NO: "not optimised by profile"}
    told = words.get(where.python.optimised, "unknown whether optimised by profile")
    return f"Python {where.python.version} ({where.python.compiled_with}; {told}), gateway {where.gateway_code}"
