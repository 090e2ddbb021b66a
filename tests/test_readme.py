"""The README says what the product does today."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config import config_reference_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_configuration_key_with_unit_and_default() -> None:
    block = README.partition("<!-- configuration: begin -->")[2].partition("<!-- configuration: end -->")[0]
    assert block.strip() == config_reference_markdown().strip(), "paste the output of `holdfast config reference`"


def test_every_file_in_the_picture_of_the_house_exists() -> None:
    picture = README.partition("## The house")[2].partition("```")[2].partition("```")[0]
    folders: list[tuple[int, str]] = []
    missing = []
    for line in picture.splitlines():
        for name in re.findall(r"(?:^ *|  )([a-z0-9_]+(?:\.py|/))(?=\s|$)", line):
            indent = len(line) - len(line.lstrip())
            while folders and folders[-1][0] >= indent:
                folders.pop()
            path = "".join(folder for _, folder in folders) + name
            if not (ROOT / path).exists():
                missing.append(path)
            if name.endswith("/") and line.strip().startswith(name):
                folders.append((indent, name))
    assert not missing


def test_every_module_of_the_core_is_in_the_picture_of_the_house() -> None:
    named = set(re.findall(r"([a-z0-9_]+\.py)", README.partition("## The house")[2]))
    missing = {path.name for path in (ROOT / "gateway" / "core").glob("*.py")} - named - {"__init__.py"}
    # Values that the rooms speak of, rather than decisions.
    assert missing <= {"events.py", "effects.py", "transaction.py"}
