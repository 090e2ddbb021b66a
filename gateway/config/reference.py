"""What can be said about a key without a value at hand: what is right, its default, the shipped file, the table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.models import Config

_HEAD = """\
# Holdfast configuration. Every key is shown with its default; a key that is left out has that default.
# Paths are relative to this file. Unknown keys are mistakes. `holdfast config check -c FILE` reports every mistake.
# The environment overrides a key as HOLDFAST_<TABLE>__<KEY>, e.g. HOLDFAST_REPLAY__RATE_PER_S=50;
# lists, and all [[terminals]] together as HOLDFAST_TERMINALS, are written as JSON there.
# A table in a table is HOLDFAST_ACQUIRER__TLS__CA_FILE. Tables that are commented out are optional.
# Units stand last in a key's name: _ms milliseconds, _s seconds, _minor minor units of the currency (cents, fen).
"""


def extras(field: FieldInfo) -> dict[str, Any]:
    """The key's unit, what is right in words, and example."""
    extra = field.json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


def what_is_right(field: FieldInfo) -> str:
    """What a key accepts, in words, with its default."""
    extra = extras(field)
    if table_in(field) is not None:
        return str(extra["right"])
    unit = f" {extra['unit']}" if extra.get("unit") and extra["unit"] != "hex" else ""
    bounds = bounds_of(field)
    if bounds is not None:
        right = f"a whole number from {bounds[0]} to {bounds[1]}{unit}"
    else:
        right = str(extra.get("right") or "a table")
    if field.is_required():
        return f"{right} (no default)"
    return f"{right} (default {shown_default(field)})"


def bounds_of(field: FieldInfo) -> tuple[int, int] | None:
    """Least and largest value of a numeric key."""
    low = next((rule.ge for rule in field.metadata if isinstance(rule, Ge)), None)
    high = next((rule.le for rule in field.metadata if isinstance(rule, Le)), None)
    return (low, high) if isinstance(low, int) and isinstance(high, int) else None


def shown_default(field: FieldInfo) -> str:
    """The default, or the example of a key that has none, as TOML."""
    return _toml(extras(field).get("example") if field.is_required() else field.default)


def sections() -> Iterator[tuple[str, type[BaseModel], bool]]:
    """Tables of the file in order: name, model, whether it may be repeated."""
    for name, field in Config.model_fields.items():
        annotation = field.annotation
        inner = get_args(annotation)
        model = inner[0] if inner else annotation
        yield name, model, bool(inner)  # type: ignore[misc]


def table_in(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a key that is an optional table within its table, such as `tls`."""
    found = [one for one in get_args(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return found[0] if found else None


def tables_within(name: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The optional tables within a table, by their full names: `terminals.tls`."""
    for key, field in model.model_fields.items():
        if (inner := table_in(field)) is not None:
            yield f"{name}.{key}", inner


def default_config_toml() -> str:
    """The commented file that `holdfast init` writes: every key with its meaning, unit, bounds and default.

    Optional tables are commented out, their own lines without a blank after the "#".
    """
    blocks = [_HEAD]
    for name, model, repeated in sections():
        blocks.append(_block(f"[[{name}]]" if repeated else f"[{name}]", model))
        blocks += [_block(f"#[{inner_name}]", inner, "#") for inner_name, inner in tables_within(name, model)]
    return "\n".join(blocks)


def _block(head: str, model: type[BaseModel], mark: str = "") -> str:
    lines = [*_comment(" ".join((model.__doc__ or "").split())), head]
    for key, field in model.model_fields.items():
        if table_in(field) is not None:
            continue
        accepts = _accepts(field)
        meaning = f"{field.description} [{accepts}]" if accepts else str(field.description)
        lines += [*_comment(meaning), f"{mark}{key} = {shown_default(field)}"]
    return "\n".join(lines) + "\n"


def config_reference_markdown() -> str:
    """A table of every key, as it stands in docs/configuration.md."""
    lines = ["| key | default | accepts | meaning |", "|---|---|---|---|"]
    for name, model, repeated in sections():
        lines += _rows(f"[[{name}]]" if repeated else f"[{name}]", model)
        for inner_name, inner in tables_within(name, model):
            lines += _rows(f"[{inner_name}]", inner)
    return "\n".join(lines) + "\n"


def _rows(table: str, model: type[BaseModel]) -> Iterator[str]:
    for key, field in model.model_fields.items():
        if table_in(field) is None:
            default = "required" if field.is_required() else f"`{shown_default(field)}`"
            yield f"| `{table} {key}` | {default} | {_accepts(field)} | {field.description} |"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 108, break_on_hyphens=False)]


def _accepts(field: FieldInfo) -> str:
    unit = extras(field).get("unit") or ""
    bounds = bounds_of(field)
    if bounds is None:
        return str(extras(field).get("right") or "")
    return f"{bounds[0]} to {bounds[1]} {unit}".rstrip()


def _toml(value: object) -> str:
    """A value as TOML; our defaults need no more than these types."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, bytes):
        return _toml(value.hex())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(element) for element in value)}]"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False)
    raise TypeError(f"no TOML for {type(value).__name__}")
