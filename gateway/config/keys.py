"""What every table of the file is made of: keys with meaning, unit, bounds and default, each said once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

HOUR_MS = 3_600_000
"""What time limits are bounded by."""


class Section(BaseModel):
    """A table of the file: unknown keys are mistakes, and mistakes never show what was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def key(meaning: str, default: Any = ..., *, unit: str = "", right: str = "", example: Any = None) -> Any:
    """A key: `right` says in words what is accepted; a key without default has an `example` for the shipped file."""
    extra = {"unit": unit, "right": right, "example": example}
    return Field(default, description=meaning, json_schema_extra=extra, validate_default=True)


def number(meaning: str, default: int, low: int, high: int, unit: str = "") -> Any:
    """A whole number from `low` to `high`."""
    return Field(default, ge=low, le=high, description=meaning, json_schema_extra={"unit": unit})
