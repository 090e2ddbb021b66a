"""The fingerprint tells what figures depend on, and nothing that names a machine, a person or a place."""

from __future__ import annotations

import getpass
import os
import platform
import sqlite3
import tomllib
from pathlib import Path

import msgspec
import pytest

from bench.child import Setup
from bench.load.fingerprint import WITHHELD, disclosed, disclosed_options, fingerprint, sync_us
from tests.bench.load.documents import CONFIGURATION


def test_it_tells_what_figures_depend_on(tmp_path: Path) -> None:
    told = fingerprint(tmp_path)
    assert told.processor
    assert 1 <= told.cores <= (os.cpu_count() or 1)
    assert told.memory_bytes > 64 << 20
    assert told.kernel.startswith(platform.system())
    assert told.file_system not in {"", "unknown"}
    assert told.sync_us > 0
    assert told.versions["SQLite"] == sqlite3.sqlite_version
    assert {"Python", "aiohttp", "cryptography", "msgspec"} <= told.versions.keys()


def test_it_names_neither_host_nor_user_nor_folder(tmp_path: Path) -> None:
    text = msgspec.json.encode(fingerprint(tmp_path, Setup(terminal_port=1, operations_port=2, acquirer_port=3).toml()))
    told = text.decode()
    assert str(tmp_path) not in told
    assert "127.0.0.1" not in told
    assert "sqlite3" not in told.replace("SQLite", "")
    for name in (platform.node(), getpass.getuser()):
        assert len(name) < 4 or name not in told


def test_the_sync_time_leaves_no_file_behind_and_needs_a_folder(tmp_path: Path) -> None:
    assert 0 < sync_us(tmp_path) < 10e6
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="gone"):
        sync_us(tmp_path / "gone")


def test_of_a_configuration_numbers_switches_and_plain_words_are_told() -> None:
    told = tomllib.loads(disclosed(Setup(terminal_port=1, operations_port=2, acquirer_port=3).toml()))
    assert told["terminals"][0]["dialect"] == "unionpay"
    assert told["acquirer"]["host_timeout_ms"] == 1000
    assert told["standin"]["mode"] == "on"


@pytest.mark.parametrize("secret", ["Corner", "/srv/", "journal.sqlite3", "10.1.2.3", "9583", "correct-horse"])
def test_of_a_configuration_names_paths_addresses_and_secrets_are_withheld(secret: str) -> None:
    assert secret in CONFIGURATION
    assert secret not in disclosed(CONFIGURATION)


@pytest.mark.parametrize(
    "line",
    [
        'api_key = "hunter"',
        "pin = 123456",
        '[secrets]\nfirst = "hunter"',
        "[keys.master.inner]\nnumber = 123456",
        '[[tokens]]\nvalue = "hunter"',
        'mode = "0123456789abcdef0123456789abcdef"',
        'mode = "shop.example.com"',
        'mode = "C:\\\\shop\\\\keys"',
        '"hunter 123456" = 1',
        "# hunter 123456\na = 1",
        'endpoints = ["hunter"]',
    ],
)
def test_a_secret_in_any_place_is_withheld(line: str) -> None:
    told = disclosed(line)
    for secret in ("hunter", "123456", "0123456789abcdef", "example", "shop"):
        assert secret not in told
    tomllib.loads(told)


def test_telling_something_twice_changes_nothing() -> None:
    once = disclosed(CONFIGURATION)
    assert disclosed(once) == once
    assert disclosed("") == ""
    assert disclosed("this is = not [ toml") == WITHHELD


def test_of_options_paths_and_endpoints_are_withheld() -> None:
    told = disclosed_options({"terminals": 64, "tls": True, "keep": "kept", "out": "/a/b", "protocol": "iso8583"})
    assert told == {"terminals": 64, "tls": True, "keep": WITHHELD, "out": WITHHELD, "protocol": "iso8583"}
