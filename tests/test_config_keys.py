"""Files of keys, sessions and mappings that a configuration names are checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.acquirers import mapping_file
from gateway.config import ConfigError, load_config
from gateway.operations.installing import install

LEAST = """
[[terminals]]
listen = "127.0.0.1:0"
{terminals}
[acquirer]
endpoints = ["127.0.0.1:9583"]
{acquirer}
"""
SESSION = """
[acquirer.session]
terminal = "GATEWAY1"
merchant = "000000000000001"
master_key_file = "host.key"
"""
KEY = "0123456789ABCDEFFEDCBA9876543210"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    install(tmp_path)
    secret(tmp_path / "host.key", KEY)
    secret(tmp_path / "terminal.keys", f"T0000001 {KEY}")
    return tmp_path


def secret(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text, encoding="ascii")
    path.chmod(mode)


def mistakes(folder: Path, *, terminals: str = "", acquirer: str = "") -> list[str]:
    file = folder / "holdfast.toml"
    file.write_text(LEAST.format(terminals=terminals, acquirer=acquirer), encoding="utf-8")
    try:
        load_config(file, {})
    except ConfigError as error:
        told = list(error.mistakes)
        assert KEY not in "".join(told)
        return [mistake.partition("holdfast.toml: ")[2] for mistake in told]
    return []


def test_sessions_on_both_sides_are_right(folder: Path) -> None:
    assert mistakes(folder, terminals='master_keys_file = "terminal.keys"', acquirer=SESSION) == []


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (f"T0000001 {KEY}", 0o644, "others may read or write it; `chmod 600` it"),
        ("", 0o600, "holds no keys"),
        (f"T0000001 {KEY}\nT0000001 {KEY}", 0o600, "line 2 names a terminal a second time"),
        ("T0000001 0123", 0o600, "line 1"),
        (f"{KEY}", 0o600, "line 1 is wrong"),
    ],
)
def test_a_file_of_master_keys_is_checked(folder: Path, content: str, mode: int, told: str) -> None:
    secret(folder / "terminal.keys", content, mode)
    (found,) = mistakes(folder, terminals='master_keys_file = "terminal.keys"')
    assert found.startswith("terminals[0].master_keys_file: ")
    assert told in found


def test_master_keys_want_a_dialect_with_macs_and_no_http(folder: Path) -> None:
    (found,) = mistakes(folder, terminals='master_keys_file = "terminal.keys"\ndialect = "iso87-ascii"')
    assert found.startswith("terminals[0].master_keys_file: cannot be used with this dialect: ")
    found, *_ = mistakes(
        folder, terminals='master_keys_file = "terminal.keys"\nspeaks = "http"\nallow_unauthenticated = true'
    )
    assert found.startswith("terminals[0].master_keys_file: is for ISO 8583")


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("GATEWAY1", "GATEWAY10", "acquirer.session.terminal: is not 1 to 8 printable"),
        ("000000000000001", "", "acquirer.session.merchant: is not 1 to 15 printable"),
        ("host.key", "nowhere.key", "acquirer.session.master_key_file: does not exist"),
        (
            "[acquirer.session]",
            'dialect = "iso87-binary"\n[acquirer.session]',
            "acquirer.session.master_key_file: a sess",
        ),
        ("[acquirer.session]", 'speaks = "http"\n[acquirer.session]', "acquirer.session.terminal: is for ISO 8583"),
    ],
)
def test_a_session_with_the_host_is_checked(folder: Path, written: str, instead: str, told: str) -> None:
    found = mistakes(folder, acquirer=SESSION.replace(written, instead))
    assert any(mistake.startswith(told) for mistake in found), found


def test_a_host_key_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "host.key").chmod(0o640)
    (found,) = mistakes(folder, acquirer=SESSION)
    assert found.startswith("acquirer.session.master_key_file: others may read or write it")


HTTP = """
speaks = "http"
mapping = "tern"
credential = "hmac"
credential_file = "host.key"
"""


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("", "", ""),
        ('"tern"', '"nobodys"', "acquirer.mapping: "),
        ('"tern"', '"./nowhere.toml"', "acquirer.mapping: "),
        ('"hmac"', '"bearer"', "acquirer.credential: is a token in clear; a table [acquirer.tls], or hmac"),
        ('"hmac"', '"none"', "acquirer.credential_file: has no use"),
        ('credential_file = "host.key"', "", "acquirer.credential_file: is empty"),
        ('"host.key"', '"nowhere"', "acquirer.credential_file: does not exist"),
    ],
)
def test_a_host_that_speaks_http_is_checked(folder: Path, written: str, instead: str, told: str) -> None:
    found = mistakes(folder, acquirer=HTTP.replace(written, instead) if written else HTTP)
    assert [mistake for mistake in found if not (told and mistake.startswith(told))] == []
    assert bool(found) is bool(told)


@pytest.mark.parametrize(
    ("habits", "told"),
    [
        ("", ""),
        ("batch_field = 62\nbatch_start = 0", "acquirer.mapping: looks for the batch elsewhere"),
        ('period = "horizon"\nhorizon_hours = 23', "terminals[0].dialect: has horizon_hours = 23"),
        ('period = "horizon"\nhorizon_hours = 24', ""),
        ('period = "date"\nbatch_field = 62', ""),
    ],
)
def test_a_host_that_speaks_http_can_tell_two_uses_of_a_stan_apart(folder: Path, habits: str, told: str) -> None:
    settles = "totals_field = 0" if "period" in habits else ""
    own = f'name = "own"\nextends = "unionpay"\n[terminal]\n{settles}\n{habits}\n'
    (folder / "own.toml").write_text(own, encoding="utf-8")
    found = mistakes(folder, terminals='dialect = "own.toml"\n', acquirer=HTTP)
    assert [mistake for mistake in found if not (told and mistake.startswith(told))] == []
    assert bool(found) is bool(told)


def test_rule_d17_counts_the_second_wait_of_a_mapping_that_repeats_requests_too(folder: Path) -> None:
    plain = (Path(mapping_file.__file__).parent / "mappings" / "tern.toml").read_text(encoding="utf-8")
    (folder / "mine.toml").write_text(f"{plain}\n[host]\nrepeat_request = true\n", encoding="utf-8")
    acquirer = HTTP.replace('"tern"', '"mine.toml"')
    assert mistakes(folder, terminals="terminal_timeout_ms = 35_001", acquirer=acquirer) == []
    (found,) = mistakes(folder, terminals="terminal_timeout_ms = 30_000", acquirer=acquirer)
    assert found.startswith("terminals[0].terminal_timeout_ms: is not longer than twice")
    assert mistakes(folder, terminals="terminal_timeout_ms = 30_000", acquirer=HTTP) == []


def test_every_mistake_of_a_mapping_is_told(folder: Path) -> None:
    (folder / "mine.toml").write_text('name = "mine"\n[messages.0200]\npath = 3\n', encoding="utf-8")
    found = mistakes(folder, acquirer=HTTP.replace('"tern"', '"mine.toml"'))
    assert len(found) > 1
    assert all(mistake.startswith("acquirer.mapping: ") for mistake in found)
