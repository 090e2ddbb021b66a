"""What is worth a look in a configuration that is right: said at `config check` and at start, never refused."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.models import Config
from gateway.config.terminals import TerminalsSection
from gateway.config.values import Speaks
from protocol.mac_method import MacMethod


def _has_macs(terminals: TerminalsSection) -> bool:
    from protocol.iso8583.dialect import load_dialect  # noqa: PLC0415 - only a remark needs it

    return terminals.speaks is Speaks.ISO8583 and (
        load_dialect(terminals.dialect).terminal.mac_method is not MacMethod.NONE
    )


def remarks(config: Config) -> Iterator[str]:
    """Remarks as "key: what is so; what would be better". They show none of what was written."""
    for number, terminals in enumerate(config.terminals):
        place = f"terminals[{number}]"
        tls = terminals.tls
        if tls is None and not terminals.listen.loopback:
            yield (
                f"{place}.listen: is reached from other machines without TLS: card data crosses the network in clear, "
                f"and whoever is on it can speak for any terminal; a table [terminals.tls] (README, Lines)"
            )
        if tls is not None and tls.client_ca_file is not None and not tls.require_client_certificate:
            yield (
                f"{place}.tls.require_client_certificate: is false: whoever shows no certificate can speak for any "
                f"terminal; true as soon as every terminal has one"
            )
        if tls is not None and tls.client_ca_file is None and not terminals.master_keys_file and _has_macs(terminals):
            yield (
                f"{place}.master_keys_file: is empty, and terminals show no certificates: whoever connects can speak "
                f"for any terminal; a file of the terminals' keys (docs/unionpay-day.md), or tls.client_ca_file"
            )
        keyed = [other.dialect for other in config.terminals if other.master_keys_file]
        if not terminals.master_keys_file and terminals.dialect in keyed and terminals.speaks is Speaks.ISO8583:
            yield (
                f"{place}.master_keys_file: is empty, and another listener of this dialect checks MACs: whoever "
                f"wants to pass without one comes here; the same file, or certificates"
            )
    if config.acquirer.tls is None and not all(endpoint.loopback for endpoint in config.acquirer.endpoints):
        yield (
            "acquirer.endpoints: are reached without TLS: card data leaves this machine in clear; a table "
            "[acquirer.tls], or a line of the acquirer's that is protected by itself"
        )
