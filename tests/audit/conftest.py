"""Fixtures of the audit's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.scene import Scene, build


@pytest.fixture(scope="session")
def whole_shop(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A journal that nobody has touched; copy it before you do."""
    return build(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def shop(whole_shop: Scene, tmp_path: Path) -> Scene:
    """A journal of one's own, to be damaged."""
    return whole_shop.copied(tmp_path / "shop")
