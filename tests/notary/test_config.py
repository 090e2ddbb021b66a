"""The `[audit]` table says precisely what is wrong with it, and never shows what was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load_config
from gateway.config.audit import AuditSection, SyslogWay, origin_of
from gateway.config.values import Address
from gateway.operations.installing import install
from gateway.wiring import notary_settings
from protocol.transparency.cosignatures import WitnessKey
from protocol.transparency.notes import SignerKey

KEY = WitnessKey("witness.example/w1", SignerKey("witness.example/w1", bytes(32)).verifier.public).text
LOG_KEY = SignerKey("log.example", bytes(32)).verifier.text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    install(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text('[[terminals]]\nlisten = "127.0.0.1:0"\n[acquirer]\nendpoints = ["127.0.0.1:9"]\n')
    return path


def audit(file: Path, lines: str) -> Path:
    file.write_text(file.read_text() + f"[audit]\n{lines}\n")
    return file


@pytest.mark.parametrize(
    ("lines", "mistake"),
    [
        ('origin = "a b"', "audit.origin: has a space, a plus or a control character; text without"),
        ('origin = "a+b"', "audit.origin: has a space, a plus or a control character; text without"),
        ('origin = "a\\u2028b"', "audit.origin: has a space"),
        (f'origin = "{"x" * 256}"', "audit.origin: is longer than 255 bytes"),
        ("checkpoint_every_ms = -1", "audit.checkpoint_every_ms: is too small; a whole number from 0 to 3600000 ms"),
        ('syslog = "localhost"', "audit.syslog: begins neither with udp:// nor with tcp:// nor with unix:/"),
        ('syslog = "udp://"', "audit.syslog: has no host name or address"),
        ('syslog = "tcp://h:99999"', "audit.syslog: has no valid port"),
        ('syslog = "tcp://h:0"', "audit.syslog: has no valid port"),
        ('syslog = "tcp://h:1/x"', "audit.syslog: has more than a host and a port"),
        ('syslog = "unix:dev/log"', "audit.syslog: has no absolute path after unix:"),
        ("syslog = 5", "audit.syslog: is not text"),
        ('witnesses = ["https://w"]', "audit.witnesses[0]: is not a key and a URL with a blank between; a list of"),
        ('witnesses = ["a+b+c https://w"]', "audit.witnesses[0]: has no witness's key: a key's last part is base64"),
        (f'witnesses = ["{LOG_KEY} https://w"]', "audit.witnesses[0]: has no witness's key: only Ed25519 keys of wit"),
        (f'witnesses = ["{KEY[:-6]}AAAA== https://w"]', "audit.witnesses[0]: has no witness's key"),
        (f'witnesses = ["{KEY} ftp://w"]', "audit.witnesses[0]: has no http or https URL after the key"),
        (f'witnesses = ["{KEY} https://u:p@w"]', "audit.witnesses[0]: has a URL with more than a host"),
        (f'witnesses = ["{KEY} https://w", "{KEY} https://v"]', "audit.witnesses[1]: has the name of another witness"),
        ('witness_proxy = "proxy"', "audit.witness_proxy: has no port"),
        ('witness_proxy = "h:1/x"', "audit.witness_proxy: has more than a host and a port"),
        ('witness_ca_file = "nothing.pem"', "audit.witness_ca_file: cannot be read"),
        ('publish_folder = "."', "audit.publish_folder: holds the journal: who is served that folder gets them too"),
        ('publish_folder = "keys"', "audit.publish_folder: holds the keys"),
        ('publish_folder = "small.toml"', "audit.publish_folder: is a file; the path of a folder"),
        ("publish = true", "audit.publish: is not known; did you mean `publish_folder`?"),
    ],
)
def test_a_mistake_is_told_with_what_would_be_right(lines: str, mistake: str, file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(audit(file, lines), {})
    assert any(f": {mistake}" in one for one in caught.value.mistakes), caught.value.mistakes
    assert KEY not in str(caught.value)
    assert "u:p@" not in str(caught.value)


def test_what_is_right_reaches_the_notary(file: Path) -> None:
    lines = f"""
origin = "example.org/shop-7"
checkpoint_every_ms = 250
publish_folder = "published"
syslog = "tcp://[::1]:601"
witnesses = ["{KEY} https://w.example:8443/prefix/"]
witness_proxy = "proxy.example:3128"
"""
    settings = notary_settings(load_config(audit(file, lines), {}))
    assert (settings.origin, settings.checkpoint_every_ms) == ("example.org/shop-7", 250)
    assert settings.folder == file.parent / "published"
    assert settings.syslog is not None
    assert (settings.syslog.stream, settings.syslog.host, settings.syslog.port) == (True, "::1", 601)
    (witness,) = settings.witnesses
    assert (witness.key.text, witness.url) == (KEY, "https://w.example:8443/prefix")
    assert witness.tls is not None
    assert witness.proxy == ("proxy.example", 3128)


def test_the_environment_overrides_it_too(file: Path) -> None:
    environment = {"HOLDFAST_AUDIT__WITNESSES": f'["{KEY} http://127.0.0.1:1"]', "HOLDFAST_AUDIT__SYSLOG": "udp://h"}
    section = load_config(file, environment).audit
    assert [each.name for each in section.witnesses] == ["witness.example/w1"]
    assert section.syslog is not None
    assert (section.syslog.way, section.syslog.address) == (SyslogWay.UDP, Address("h", 514))


@pytest.mark.parametrize(
    ("name", "origin"),
    [("shop-7", "holdfast/shop-7"), ("Shop 7 + bar", "holdfast/Shop-7-bar"), (" ", "holdfast/gateway")],
)
def test_without_an_origin_it_is_made_of_the_gateways_name(name: str, origin: str) -> None:
    assert origin_of(AuditSection(), name) == origin
    SignerKey(origin, bytes(32))
    assert origin_of(AuditSection(origin="example.org/x"), name) == "example.org/x"
