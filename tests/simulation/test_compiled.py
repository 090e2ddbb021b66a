"""Compiled, the code decides and writes as its sources say: it is built here as a wheel, and run beside the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.crash.amounts import LIMIT_S, TIMES, missing, tool

ROOT = Path(__file__).parents[2]
PACKAGES = ("bench", "gateway", "protocol", "tests")
SHOW = (
    "import gateway.core.engine, gateway.journal.batch, protocol.iso8583.codec as codec; "
    "from tests.simulation.test_traces import digests; "
    "print(*digests(), gateway.core.engine.__file__, gateway.journal.batch.__file__, codec.__file__, sep='\\n')"
)
SUITES = ("core", "simulation", "journal", "protocol", "terminals", "gateway")

pytestmark = pytest.mark.timeout(6 * LIMIT_S)


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Our interpreter in a folder whose packages go before those that are installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(  # noqa: S603 - our own interpreter and our own words
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{folder}", **more},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, without what a build may have left beside them."""
    folder = tmp_path_factory.mktemp("sources")
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "compiled.*.json", "__pycache__")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def compiled(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a compiled wheel installs, and the tests beside it. Little optimised: that changes no meaning."""
    tool("gcc", "gcc")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing("Python's headers are not installed: apt-get install python3-dev")
    build = ("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "made", ".")
    built = run(sources, *build, HOLDFAST_COMPILE="1", HOLDFAST_COMPILE_LEVEL="0")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-1000:]
    (wheel,) = (sources / "made").iterdir()
    folder = tmp_path_factory.mktemp("compiled")
    zipfile.ZipFile(wheel).extractall(folder)
    shutil.copytree(sources / "tests", folder / "tests")
    shutil.copy(sources / "pyproject.toml", folder)
    return folder


# One test, since each worker of pytest that has a part of it would compile everything anew.
def test_a_compiled_wheel_decides_as_its_sources_say_and_runs_on_no_others(sources: Path, compiled: Path) -> None:
    has_its_modules_and_nothing_of_their_making(compiled)
    gives_the_same_traces(sources, compiled)
    says_so_and_refuses_changed_sources(compiled)


def has_its_modules_and_nothing_of_their_making(compiled: Path) -> None:
    libraries = {path.relative_to(compiled) for path in compiled.rglob("*.so")}
    assert len(libraries) > 20
    assert {path.parts[0] for path in libraries} == {"gateway", "protocol"}
    for path in libraries:
        module = compiled / path.parent / path.name.partition(".")[0]
        assert module.with_suffix(".py").exists() or module.name == "compiled__mypyc"
    assert not [path for name in PACKAGES[:3] for path in (compiled / name).rglob("*.[cho]")]


def gives_the_same_traces(sources: Path, compiled: Path) -> None:
    told = {}
    for folder, end in ((sources, ".py"), (compiled, ".so")):
        done = run(folder, "-c", SHOW)
        assert done.returncode == 0, done.stderr
        *told[folder], engine, batch, codec = done.stdout.split()
        assert all(file.startswith(f"{folder}") and file.endswith(end) for file in (engine, batch, codec))
    assert told[compiled] == told[sources]
    assert len(set(told[compiled])) > 10


def says_so_and_refuses_changed_sources(compiled: Path) -> None:
    said = run(compiled, "-m", "gateway", "version")
    assert said.returncode == 0, said.stderr
    assert "(compiled, " in said.stdout
    source = compiled / "gateway" / "core" / "lanes.py"
    text = source.read_bytes()
    source.write_bytes(text + b"CHANGED = True\n")
    for command in (("-m", "gateway", "version"), ("-c", "import gateway.core.lanes"), ("-c", "import bench.till")):
        refused = run(compiled, *command)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("holdfast: changed since they were compiled: gateway/core/lanes.py: ")
        assert len(refused.stderr.splitlines()) == 1
    source.write_bytes(text)
    assert run(compiled, "-m", "gateway", "version").returncode == 0


@pytest.mark.skipif(TIMES == 1, reason="for minutes: make nightly")
@pytest.mark.parametrize("suite", SUITES)
def test_what_is_tested_interpreted_holds_compiled(compiled: Path, suite: str) -> None:
    ours = f"--ignore=tests/simulation/{Path(__file__).name}"
    done = run(compiled, "-m", "pytest", "-q", "-p", "no:cacheprovider", ours, f"tests/{suite}", TESTS_TIMES="1")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
