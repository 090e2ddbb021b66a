"""What an auditor reads stands by itself: nothing of the gateway is imported, and there is no IO, time or chance."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from protocol import transparency

MODULES = sorted(Path(next(iter(transparency.__path__))).glob("*.py"))
ALLOWED = {
    "__future__",
    "base64",
    "collections",
    "cryptography",
    "dataclasses",
    "hashlib",
    "protocol.transparency",
    "re",
    "typing",
}


def imported(module: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_imports_hashing_signatures_and_its_neighbours_only(module: Path) -> None:
    for name in imported(module):
        assert any(name == each or name.startswith(each + ".") for each in ALLOWED), name
    called = {node.func.id for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    assert not called & {"open", "print", "input", "eval", "exec", "__import__"}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_is_read_in_one_sitting(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_guide_names_every_module_and_no_other() -> None:
    guide = transparency.__doc__ or ""
    named = {word for word in guide.split() if word.endswith(".py")}
    assert named == {module.name for module in MODULES} - {"__init__.py"}
    assert len(named) > 5
