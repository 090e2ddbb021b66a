"""The README says what the product does today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import config_reference_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_page_lists_every_configuration_key_with_unit_and_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    block = page.partition("<!-- configuration: begin -->")[2].partition("<!-- configuration: end -->")[0]
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


def test_the_decode_command_of_the_readme_works() -> None:
    (command,) = re.findall(r"^holdfast (decode .*)$", README, re.MULTILINE)
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == 0, done.output
    assert "0800" in done.output
    assert re.search(r"System trace audit number +000079$", done.output, re.MULTILINE)


def listed_rules() -> list[str]:
    section = README.partition("## Rules by number")[2].partition("\n## ")[0]
    return re.findall(r"^\| (D\d+) \| .+ \|$", section, re.MULTILINE)


def test_every_rule_is_listed_once_and_in_order() -> None:
    assert listed_rules() == [f"D{number}" for number in range(1, 22)]


@pytest.mark.parametrize("name", ["gateway/core/steering.py", "gateway/core/lanes.py", "gateway/core/replay.py"])
def test_what_explain_cites_is_among_the_listed_rules(name: str) -> None:
    cited = set(re.findall(r"\bD\d+\b", (ROOT / name).read_text(encoding="utf-8")))
    assert cited
    assert cited <= set(listed_rules())
