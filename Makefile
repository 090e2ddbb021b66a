# Holdfast: `make run` tells the story and stays up; `make test` is what CI runs; `make install` only installs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests start hundreds of gateways: where Python may not keep its bytecode, each would compile all of it again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install compiled interpreted run test tests format lint types floors unit crash nightly safeguards simulate fuzz clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Holdfast needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Compiles the busiest modules beside their sources; wants a C compiler and some minutes (docs/compiled.md).
compiled: install
	@echo "compiling; this takes some minutes ..."
	@HOLDFAST_COMPILE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .

interpreted:
	@find gateway protocol \( -name 'compiled.*.json' -o -name '*.so' \) -delete

run: install
	@$(BIN)/python -m bench story

# What takes seconds first; then the types beside the tests.
test: lint floors
	@$(MAKE) --no-print-directory -j2 types tests

# All of them in one run, so that no core waits at the end of a part; up to three that failed are tried again, alone.
tests: install
	@rm -f .pytest_cache/v/cache/lastfailed
	@$(BIN)/pytest -n auto --dist worksteal || { test $$? -eq 1 && $(BIN)/python -m tests.second_try; }

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

floors: install
	$(BIN)/lint-imports

# A part of them: all but the next.
unit: install
	$(BIN)/pytest -n auto --dist worksteal --ignore tests/crash

# Power cuts, failing disks, kill -9. Wants gcc, libc6-dev, strace, e2fsprogs, root and a loop device; skips what it lacks.
crash: install
	$(BIN)/pytest -n auto --dist worksteal tests/crash

# Ten times as many seeds, cuts, kills and flips, other ones than by day.
nightly: install
	TESTS_TIMES=10 $(BIN)/pytest -n auto --dist worksteal tests/simulation tests/networks tests/crash tests/audit

# Takes every safeguard away in turn, and demands that a check notices.
safeguards: install
	@$(BIN)/python -m tests.simulation safeguards
	@$(BIN)/python -m tests.safeguards

# A night's worth of the core's simulation: two processes; the first failures are shrunk to scripts.
SEEDS ?= 100000
simulate: install
	@$(BIN)/python -m tests.simulation run --seeds 1..$(SEEDS) --jobs 2

# Hostile bytes, each surface for SECONDS in turn; what breaks one is saved and shown. Better with '.[fuzz]' (atheris).
SECONDS ?= 60
fuzz: install
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

clean: interpreted
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .demo
