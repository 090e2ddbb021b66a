"""Receipts in the configuration: only where they can be made and read, and every mistake is told by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load_config
from gateway.operations.installing import install

HTTP = 'speaks = "http"\nallow_unauthenticated = true\n'
CONFIGURATION = """
[journal]
path = "journal.sqlite3"
keys = "keys"
[[terminals]]
listen = "127.0.0.1:0"
{listener}
[acquirer]
endpoints = ["127.0.0.1:1"]
dialect = "iso87-binary"
[operations]
token_file = "operations.token"
[audit]
{audit}
"""


def mistakes(folder: Path, listener: str, audit: str = "") -> list[str]:
    """What is wrong with an installation whose listener has these lines."""
    config = install(folder / "gateway").config
    config.write_text(CONFIGURATION.format(listener=listener, audit=audit), encoding="utf-8")
    try:
        load_config(config)
    except ConfigError as error:
        return list(error.mistakes)
    return []


@pytest.mark.parametrize(
    "listener",
    [HTTP + "receipts = true\n", 'dialect = "iso87-ascii"\nreceipt_field = 62\n', "receipt_field = 63\n", ""],
)
def test_receipts_that_can_be_made_are_taken(listener: str, tmp_path: Path) -> None:
    assert mistakes(tmp_path, listener) == []


@pytest.mark.parametrize(
    ("listener", "audit", "told"),
    [
        ("receipts = true\n", "", "receipts: is for HTTP"),
        (HTTP + "receipts = true\n", "checkpoint_every_ms = 0", "receipts: needs signed heads"),
        (HTTP + "receipt_field = 62\n", "", "receipt_field: is for ISO 8583"),
        ("receipt_field = 39\n", "", "receipt_field: is not a private field"),
        ("receipt_field = 57\n", "", "receipt_field: is a field that this dialect does not have"),
        ("receipt_field = 61\n", "", "receipt_field: is not a field of variable length up to 60"),
        ('dialect = "iso87-ascii"\nreceipt_field = 48\n', "", "receipt_field: is a field that a receipt's colons"),
        ("receipt_field = 128\n", "", "receipt_field"),
    ],
)
def test_receipts_that_cannot_be_made_or_read_are_told(listener: str, audit: str, told: str, tmp_path: Path) -> None:
    found = mistakes(tmp_path, listener, audit)
    assert len(found) == 1, found
    assert told in found[0]
