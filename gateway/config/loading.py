"""Reading a configuration: file, then environment, then every check; all mistakes are reported at once."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gateway.config.checks import Mistake, check
from gateway.config.models import Config
from gateway.config.reference import extras, sections, table_in, tables_within, what_is_right

ENVIRONMENT_PREFIX = "HOLDFAST_"

_OF_A_SERVICE = re.compile(
    r"HOLDFAST_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets in each container for services whose names begin with "holdfast"."""

_Location = tuple[int | str, ...]

_WORDS = {
    "missing": "is missing",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "too_short": "has too few elements",
    "too_long": "has too many elements",
    "bytes_too_short": "is too short",
    "bytes_too_long": "is too long",
    "string_type": "is not text",
    "path_type": "is not text",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "enum": "is not one of these",
    "tuple_type": "is not a list",
    "model_type": "is not a table",
}


class ConfigError(Exception):
    """The configuration is wrong; nothing was started.

    Attributes:
        mistakes: each as "FILE: key: what is wrong; what would be right (default X)". Never shows what was written.
    """

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def load_config(path: Path | str, environ: Mapping[str, str] | None = None, *, starting: bool = True) -> Config:
    """Read, override and check a configuration.

    Args:
        path: a TOML file; relative paths in it are relative to its folder.
        environ: instead of the process's environment.
        starting: False for a command that only looks at a gateway: it must work while a certificate has expired, and
            for people who may not read the keys of lines.
    Raises:
        ConfigError: with every mistake at once.
    Source: D17; issue "Operating": unknown keys are mistakes.
    """
    file = Path(path)
    written = _read(file)
    overrides, mistakes = _overrides(os.environ if environ is None else environ)
    merged = _merged(written, overrides)
    for name, _, repeated in sections():
        if not repeated:
            merged.setdefault(name, {})

    context = {"folder": file.absolute().parent}
    config, errors = _validated(merged, context)
    wrong = {_dotted(error["loc"]) for error in errors}
    mistakes += [_mistake(error) for error in errors]
    if config is None:  # check what is left once every wrong key has its default, so that no mistake waits its turn
        config, _ = _validated(_repaired(merged, errors), context)
    if config is not None:
        mistakes += [mistake for mistake in check(config, starting=starting) if not _depends(mistake, wrong)]
    if mistakes or config is None:
        raise ConfigError(tuple(_told(mistake, file, overrides) for mistake in mistakes))
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError((f"{file}: does not exist; `holdfast init` makes one",)) from None
    except OSError as error:
        raise ConfigError((f"{file}: cannot be read: {error.strerror}",)) from None
    except UnicodeDecodeError:
        raise ConfigError((f"{file}: is not UTF-8 text",)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((f"{file}: is not TOML: {_without_input(str(error))}",)) from None


def _without_input(message: str) -> str:
    """What the TOML reader says and where, without what it read."""
    place = re.search(r"\(at [^()]*\)$", message)
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "...", message[: place.start()] if place else message).strip()
    return f"{words} {place[0]}" if place else words


def _overrides(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Mistake]]:
    """Values from variables HOLDFAST_<TABLE>__<KEY>, and HOLDFAST_TERMINALS as JSON.

    Every other variable that begins with HOLDFAST_ is a mistake: a key that is misspelt there would silently keep its
    default. Only those are none of ours that an orchestrator sets for a service named holdfast.
    """
    tables = {name: model for name, model, _ in sections()}
    found: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for variable in sorted(environ):
        if not variable.upper().startswith(ENVIRONMENT_PREFIX) or _OF_A_SERVICE.fullmatch(variable):
            continue
        table, separator, key = variable[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if variable != variable.upper() or not (separator or table in tables):
            mistakes.append(Mistake("", _unknown_variable(variable), source=f"environment: {variable}"))
            continue
        value: Any = environ[variable]
        if table not in tables:
            mistakes.append(Mistake("", _unknown(table, tables), source=f"environment: {variable}"))
            continue
        if not separator or _takes_list(tables[table].model_fields.get(key)):
            try:
                value = json.loads(value)
            except ValueError:
                mistakes.append(Mistake("", "is not JSON", source=f"environment: {variable}"))
                continue
        if not separator:
            found[table] = value
        elif table == "terminals":
            right = f"set all listeners at once with {ENVIRONMENT_PREFIX}TERMINALS, as a JSON list of tables"
            mistakes.append(Mistake("", f"is one listener's key; {right}", source=f"environment: {variable}"))
        else:
            _put(found, [table, *key.split("__")], value)
    return found, mistakes


def _unknown_variable(variable: str) -> str:
    known = [f"{ENVIRONMENT_PREFIX}TERMINALS"]
    tables = [(name, model) for name, model, repeated in sections() if not repeated]
    tables += [inner for name, model in tables for inner in tables_within(name, model)]
    for name, model in tables:
        keys = [key for key, field in model.model_fields.items() if table_in(field) is None]
        known += [f"{ENVIRONMENT_PREFIX}{name.replace('.', '__')}__{key}".upper() for key in keys]
    (near,) = get_close_matches(variable.upper(), known, n=1, cutoff=0.0)
    return f"is not known; did you mean `{near}`?"


def _put(found: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a key of a table, or of a table in a table."""
    for table in path[:-1]:
        found = found.setdefault(table, {})
        if not isinstance(found, dict):  # another variable sets the table itself to what is none, and is told of it
            return
    found[path[-1]] = value


def _takes_list(field: FieldInfo | None) -> bool:
    return field is not None and Ellipsis in get_args(field.annotation)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _validated(merged: Mapping[str, Any], context: Mapping[str, Any]) -> tuple[Config | None, list[ErrorDetails]]:
    try:
        return Config.model_validate(merged, context=dict(context)), []
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        return None, [one for one in errors if not _follows(one, errors)]


def _follows(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Whether a list is too short only because elements of it are wrong."""
    location = error["loc"]
    return error["type"] == "too_short" and any(
        len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in errors
    )


def _repaired(merged: Mapping[str, Any], errors: Iterable[ErrorDetails]) -> dict[str, Any]:
    """The same without the wrong keys, and with examples for those that have no default."""
    repaired = {name: _copied(value) for name, value in merged.items()}
    for error in errors:
        location = error["loc"]
        depth = 3 if location[0] == "terminals" else 2
        if len(location) < depth:
            repaired.pop(str(location[0]), None)
            continue
        table = repaired.get(str(location[0]))
        if isinstance(table, list) and isinstance(location[1], int):
            table = table[location[1]]
        if isinstance(table, dict):
            table.pop(str(location[depth - 1]), None)
    for name, model, repeated in sections():
        tables = repaired.setdefault(name, [{}] if repeated else {})
        for table in tables if isinstance(tables, list) else [tables]:
            for key, field in model.model_fields.items():
                if field.is_required():
                    table.setdefault(key, extras(field)["example"])
    return repaired


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value)
    return [_copied(element) for element in value] if isinstance(value, list) else value


def _mistake(error: ErrorDetails) -> Mistake:
    location, kind = error["loc"], error["type"]
    owner, field = _found(location)
    if kind == "extra_forbidden":
        return Mistake(_dotted(location), _unknown(str(location[-1]), owner.model_fields))
    words = _WORDS.get(kind) or (error["msg"] if kind == "form" else "")
    if kind.startswith("int_"):
        words = "is not a whole number"
    if location[0] == "terminals" and len(location) < 3:
        return Mistake(
            _dotted(location), f"{words or 'is wrong'}; one to 64 tables [[terminals]] with at least `listen`"
        )
    right = what_is_right(field) if field is not None else "a table"
    return Mistake(_dotted(location), f"{words or 'is wrong'}; {right}")


def _found(location: _Location) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model and the field that a location leads to; elements of lists lead to their list."""
    models = {name: model for name, model, _ in sections()}
    owner: type[BaseModel] = Config
    field: FieldInfo | None = None
    for step in location:
        if isinstance(step, int):
            continue
        if owner is Config and step in models:
            owner, field = models[step], None
        else:
            owner = (field and table_in(field)) or owner
            field = owner.model_fields.get(step)
    return owner, field


def _unknown(key: str, known: Iterable[str]) -> str:
    near = get_close_matches(key, list(known), n=1, cutoff=0.6)
    if near:
        return f"is not known; did you mean `{near[0]}`?"
    tables = [(name, model) for name, model, _ in sections()]
    tables += [inner for name, model in tables for inner in tables_within(name, model)]
    homes = [f"[{name}] {key}" for name, model in tables if key in model.model_fields]
    if homes:
        return f"is not known here; did you mean {' or '.join(homes)}?"
    return f"is not known; known are {', '.join(known)}"


def _dotted(location: _Location) -> str:
    """A key as it is told: terminals[0].listen."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _depends(mistake: Mistake, wrong: set[str]) -> bool:
    """Whether a check looked at a key that is wrong already (or at an element or table of it)."""
    return any(
        key == bad or key.startswith((f"{bad}.", f"{bad}[")) or bad.startswith(f"{key}[")
        for key in (mistake.key, *mistake.also)
        for bad in wrong
    )


def _told(mistake: Mistake, file: Path, overrides: Mapping[str, Any]) -> str:
    if mistake.source:
        return f"{mistake.source}: {mistake.text}"
    if variable := _variable(mistake.key, overrides):
        return f"environment: {variable}: {mistake.key}: {mistake.text}"
    return f"{file}: {mistake.key}: {mistake.text}"


def _variable(key: str, overrides: Mapping[str, Any]) -> str:
    """The variable that a key's value comes from, or ""."""
    steps = re.sub(r"\[[0-9]+\]", "", key).split(".")
    value: Any = overrides
    for depth, step in enumerate(steps, 1):
        if step not in value:
            return ""
        value = value[step]
        if not isinstance(value, dict):
            return ENVIRONMENT_PREFIX + "__".join(steps[:depth]).upper()
    return ""
