"""Every surface by its name."""

from __future__ import annotations

from tests.fuzz.surface import Surface
from tests.fuzz.table import table_surface
from tests.fuzz.text import text_surfaces
from tests.fuzz.wire import wire_surfaces


def surfaces() -> dict[str, Surface]:
    """Made when they are asked for, so that an engine can watch the modules being loaded."""
    return {surface.name: surface for surface in (*wire_surfaces(), *text_surfaces(), table_surface())}
