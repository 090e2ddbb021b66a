"""The gateway of a working day: TLS and MACs on both sides, keys and certificates in the run's folder."""

from __future__ import annotations

import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.certificates import Authority, write_secret
from bench.child import Setup
from bench.unionpay import MASTER_KEY_BYTES
from protocol.tdes import check_value, ecb_encrypt

GATEWAY_TERMINAL: Final = "GWTERM01"
GATEWAY_MERCHANT: Final = "HOLDFASTGATEWAY"
_TERMINAL_KEYS: Final = "terminal.keys"
_HOST_KEY: Final = "host.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySetup(Setup):
    """The configuration of `Setup`, with what a UnionPay day needs besides.

    Attributes:
        tls: without it both lines are plain, to show that the taps then find something.
    """

    tls: bool = True

    def toml(self) -> str:
        """The gateway's configuration file."""
        listener_tls = """\
[terminals.tls]
certificate_file = "tls/gateway.pem"
key_file = "tls/gateway.key"
client_ca_file = "tls/ca.pem"
"""
        host_tls = """\
[acquirer.tls]
ca_file = "tls/ca.pem"
"""
        listener = f"""\
master_keys_file = "{_TERMINAL_KEYS}"
{listener_tls if self.tls else ""}[acquirer]
"""
        host = f"""\
{host_tls if self.tls else ""}[acquirer.session]
terminal = "{GATEWAY_TERMINAL}"
merchant = "{GATEWAY_MERCHANT}"
master_key_file = "{_HOST_KEY}"
sign_on_timeout_ms = 2000
[standin]
allow_chip_without_issuer = true
allow_track_dropped = true
"""
        return Setup.toml(self).replace("[acquirer]\n", listener).replace("[standin]\n", host)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Who knows what: the contexts and master keys of a day."""

    acquirer_tls: ssl.SSLContext
    terminal_tls: dict[str, ssl.SSLContext]
    terminal_keys: dict[str, bytes]
    pin_keys: dict[str, bytes]
    host_key: bytes


def make_secrets(folder: Path, terminals: list[str], with_pin_key: frozenset[str] = frozenset()) -> Secrets:
    """Make certificates and keys, those of the gateway in files of its folder.

    Args:
        with_pin_key: terminals whose PIN key the acquirer gave beforehand, so that it can read their PIN blocks.
    """
    authority = Authority(folder / "tls")
    authority.server("gateway")
    terminal_keys = {name: secrets.token_bytes(MASTER_KEY_BYTES) for name in terminals}
    host_key = secrets.token_bytes(MASTER_KEY_BYTES)
    pin_keys = {name: secrets.token_bytes(MASTER_KEY_BYTES) for name in terminals if name in with_pin_key}
    lines = "".join(f"{name} {key.hex()}{_sealed(key, pin_keys.get(name))}\n" for name, key in terminal_keys.items())
    write_secret(folder / _TERMINAL_KEYS, lines.encode())
    write_secret(folder / _HOST_KEY, f"{host_key.hex()}\n".encode())
    return Secrets(
        acquirer_tls=authority.server_context(authority.server("acquirer")),
        terminal_tls=authority.client_contexts(terminals),
        terminal_keys=terminal_keys,
        pin_keys=pin_keys,
        host_key=host_key,
    )


def _sealed(master_key: bytes, pin_key: bytes | None) -> str:
    """A PIN key as it stands in the file of keys: under the master key, followed by its check value."""
    return "" if pin_key is None else f" {ecb_encrypt(master_key, pin_key).hex()}{check_value(pin_key).hex()}"
