"""Which terminals a certificate names.

A terminal id stands in a certificate as its common name, or as a URI `holdfast:terminal:ID` among its alternative
names (percent-encoded where the id has characters that a URI cannot have). There may be several of either; all count.
`holdfast:terminal:*` names every terminal, where the listener allows that. DNS names and anything else name none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

URI_PREFIX = "holdfast:terminal:"
_EVERY = "*"


@dataclass(frozen=True, slots=True)
class TerminalNames:
    """The terminal ids that a connection may speak for, worked out once at its handshake.

    Attributes:
        ids: compared whole and case-sensitively.
        every: a wildcard that the listener allows.
    """

    ids: frozenset[str] = frozenset()
    every: bool = False

    def __contains__(self, terminal_id: object) -> bool:
        """Whether the connection may speak for a terminal. Blanks that pad field 41 must have been taken off."""
        return self.every or terminal_id in self.ids

    def __str__(self) -> str:
        """For reports: at most eight ids."""
        if self.every:
            return _EVERY
        shown = sorted(self.ids)
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        return ", ".join(shown[:8]) + more if shown else "no terminal"


def terminal_names(peercert: Mapping[str, Any], *, allow_wildcard: bool = False) -> TerminalNames:
    """The terminals that a verified certificate names.

    Args:
        peercert: as `SSLObject.getpeercert()` and the transports' extra "peercert" give it.
    """
    ids = set(_common_names(peercert))
    every = False
    for kind, text in peercert.get("subjectAltName", ()):
        if kind != "URI" or not text.startswith(URI_PREFIX):
            continue
        written = text[len(URI_PREFIX) :]
        if written == _EVERY:
            every = allow_wildcard
        else:
            ids.add(unquote(written))
    return TerminalNames(frozenset(ids - {""}), every)


def _common_names(peercert: Mapping[str, Any]) -> Iterator[str]:
    for relative_name in peercert.get("subject", ()):
        for kind, text in relative_name:
            if kind == "commonName":
                yield text
