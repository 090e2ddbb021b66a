"""The names of the surfaces, for whoever must not load these: an engine watches them being loaded."""

from __future__ import annotations

from typing import Final

NAMES: Final = (
    "framing-binary-2",
    "framing-ascii-4",
    "framing-bcd-2",
    "codec-iso87-ascii",
    "codec-iso87-binary",
    "codec-unionpay",
    "tlv",
    "journal-entry",
    "http-body",
    "http-names",
    "settlement",
    "dialect-file",
    "dialect-table",
)
