"""Dialects that say only how they differ: `extends = "unionpay"` in a dialect file.

The file is laid over the shipped dialect that it names, and the result is checked as if it had been written in full:

- a key of the file stands in place of the base's; lists, and the table `echo_fields`, as a whole;
- `[framing]`, `[terminal]`, `[host]` and `[defaults]` are laid over key by key; what `[defaults]` says for every kind
  of field also stands in place of what the base says for one kind;
- a field that says its `type` is written anew; one that does not takes from the base what it does not say;
- `54 = false` takes a field away.

The name is never taken over: it is the new dialect's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_BY_KEY: Final = ("framing", "terminal", "host")


def extended(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """`own` laid over `base`, both as parsed TOML; neither is changed.

    What is of the wrong shape in `own` stays as it is, so that it is found as a mistake.
    """
    whole = {key: value for key, value in base.items() if key != "name"} | dict(own)
    for key in _BY_KEY:
        whole[key] = _laid_over(own.get(key, {}), base.get(key, {}))
    whole["defaults"] = _defaults(own.get("defaults", {}), base.get("defaults", {}))
    whole["fields"] = _fields(own.get("fields", {}), base.get("fields", {}))
    return whole


def taken_over(own: Mapping[str, Any], base: Mapping[str, Any], key: str) -> bool:
    """Whether a value, named with its tables by dots, stands in the base and not in the file itself."""
    return _holds(base, key) and not _holds(own, key)


def _laid_over(own: Any, base: Mapping[str, Any]) -> Any:
    return {**base, **own} if isinstance(own, dict) else own


def _defaults(own: Any, base: Mapping[str, Any]) -> Any:
    if not isinstance(own, dict):
        return own
    whole = {**base, **own}
    for kind, kept in base.items():
        if isinstance(kept, dict):
            left = {key: value for key, value in kept.items() if key not in own}
            whole[kind] = _laid_over(own.get(kind, {}), left)
    return whole


def _fields(own: Any, base: Mapping[str, Any]) -> Any:
    if not isinstance(own, dict):
        return own
    whole = dict(base)
    for number, field in own.items():
        if field is False and number in base:
            del whole[number]
        elif isinstance(field, dict) and number in base and "type" not in field:
            # The base's most has no place beside a length that is fixed now.
            left = {key: value for key, value in base[number].items() if key != "max" or "length" not in field}
            whole[number] = {**left, **field}
        else:
            whole[number] = field
    return whole


def _holds(table: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(table, Mapping) or part not in table:
            return False
        table = table[part]
    return True
