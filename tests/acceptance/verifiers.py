"""Where other people's verifiers are, and how they are asked.

aics-tlog and aics-witness (PyPI) need Python 3.12 or newer, so each has a virtual environment of its own:

    python -m tests.acceptance.verifiers        makes them in build/acceptance, with the newest Python that it finds

Go's golang.org/x/mod/sumdb comes from Debian: golang-1.19-go (or golang-go) and golang-golang-x-mod-dev. The program
that asks it is `sumdb/main.go`, compiled without a network.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.crash.amounts import missing

AICS_TLOG: Final = "aics-tlog==0.2.1"
AICS_WITNESS: Final = "aics-witness==0.1.0"
_FOLDER: Final = Path(__file__).resolve().parents[2] / "build" / "acceptance"
_ENVIRONMENT: Final = _FOLDER / "aics-tlog"
_WITNESS_ENVIRONMENT: Final = _FOLDER / "aics-witness"
_GO_PATH: Final = Path("/usr/share/gocode")
_GO_PROGRAM: Final = Path(__file__).with_name("sumdb") / "main.go"
_PATIENCE_S: Final = 300


def aics_tlog() -> str:
    """The program aics-tlog: what AICS_TLOG names, the one of its own environment, or the one on the path."""
    named = os.environ.get("AICS_TLOG")
    if named:
        return named
    own = _ENVIRONMENT / "bin" / "aics-tlog"
    if own.exists():
        return str(own)
    return shutil.which("aics-tlog") or missing("no aics-tlog: python -m tests.acceptance.verifiers installs it")


def aics_witness() -> str:
    """The program aics-witness: what AICS_WITNESS names, the one of its own environment, or the one on the path."""
    named = os.environ.get("AICS_WITNESS")
    if named:
        return named
    own = _WITNESS_ENVIRONMENT / "bin" / "aics-witness"
    if own.exists():
        return str(own)
    return shutil.which("aics-witness") or missing("no aics-witness: python -m tests.acceptance.verifiers installs it")


def go() -> str:
    """The Go compiler, once x/mod is there too."""
    debian = sorted(Path("/usr/lib").glob("go-1.*/bin/go"))
    compiler = shutil.which("go") or (str(debian[-1]) if debian else None)
    if compiler is None:
        missing("go is not installed: apt-get install golang-1.19-go")
    if not (_GO_PATH / "src/golang.org/x/mod/sumdb").is_dir():
        missing("golang.org/x/mod is not installed: apt-get install golang-golang-x-mod-dev")
    return compiler


def compile_sumdb(folder: Path) -> Path:
    """The program that asks x/mod, compiled into `folder`."""
    return compile_go(_GO_PROGRAM, folder)


def compile_go(source: Path, folder: Path) -> Path:
    """A Go program of one file, compiled into `folder` with Debian's x/mod and no network."""
    program = folder / source.stem
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": str(_GO_PATH),
        "GOCACHE": str(folder / "cache"),
        "GOTOOLCHAIN": "local",
    }
    command = [go(), "build", "-o", str(program), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return program


def ask_sumdb(program: Path, questions: list[dict[str, Any]]) -> list[str]:
    """x/mod's verdict on each question: "accepted", or "refused" and why."""
    written = json.dumps(questions, default=lambda octets: base64.b64encode(octets).decode())
    done = subprocess.run(  # noqa: S603
        [str(program)], input=written, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    verdicts = done.stdout.splitlines()
    assert len(verdicts) == len(questions)
    return verdicts


def ask_aics(program: str, *arguments: str | Path) -> dict[str, Any]:
    """aics-tlog's report on one command. Its exit code must say the same."""
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)  # noqa: S603
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == report["ok"], (done.returncode, report)
    return report


def install(requirement: str, environment: Path) -> None:
    """Make the environment of a verifier with the newest Python from 3.12 on that is on the path or under pyenv."""
    names = [f"python3.{minor}" for minor in range(19, 11, -1)]
    found = [path for name in names if (path := shutil.which(name))]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += [str(path) for name in names for path in sorted(versions.glob(f"*/bin/{name}"))]
    for python in found:
        # A pyenv shim is on the path for versions that are not switched on, and then fails.
        if subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:  # noqa: S603
            break
    else:
        sys.exit(f"{requirement} needs Python 3.12 or newer, and there is none")
    print(f"installing {requirement} into {environment} with {python} ...", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", str(environment)], check=True)  # noqa: S603
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", requirement], check=True)  # noqa: S603


if __name__ == "__main__":
    install(AICS_TLOG, _ENVIRONMENT)
    install(AICS_WITNESS, _WITNESS_ENVIRONMENT)
