"""What is worth a look in a configuration that is right: said at `config check` and at start, never refused."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.acquirer import AcquirerSection
from gateway.config.models import Config
from gateway.config.terminals import TerminalsSection
from gateway.config.values import Speaks
from protocol.mac_method import MacMethod


def _has_macs(terminals: TerminalsSection) -> bool:
    from protocol.iso8583.dialect import load_dialect  # noqa: PLC0415 - only a remark needs it

    return terminals.speaks is Speaks.ISO8583 and (
        load_dialect(terminals.dialect).terminal.mac_method is not MacMethod.NONE
    )


def _of_another_form(terminals: TerminalsSection, acquirer: AcquirerSection) -> str:
    """Private fields that are bytes in one of the two dialects, and digits or characters in the other."""
    from gateway.terminals.receipts import PRIVATE_FIELDS  # noqa: PLC0415 - only a remark needs it
    from protocol.iso8583.dialect import load_dialect  # noqa: PLC0415 - the same

    if terminals.speaks is not Speaks.ISO8583 or acquirer.speaks is not Speaks.ISO8583:
        return ""
    here, there = load_dialect(terminals.dialect).fields, load_dialect(acquirer.dialect).fields
    both = sorted(PRIVATE_FIELDS & here.keys() & there.keys())
    return ", ".join(str(number) for number in both if here[number].is_hex is not there[number].is_hex)


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
        if numbers := _of_another_form(terminals, config.acquirer):
            yield (
                f"{place}.dialect: has other forms than acquirer.dialect in field {numbers} (bytes in one, digits or "
                f"characters in the other): these are handed on digit by digit, and what has no such form is answered "
                f"30; the same form in both, or a dialect of the acquirer's without the field"
            )
    if config.acquirer.tls is None and not all(endpoint.loopback for endpoint in config.acquirer.endpoints):
        yield (
            "acquirer.endpoints: are reached without TLS: card data leaves this machine in clear; a table "
            "[acquirer.tls], or a line of the acquirer's that is protected by itself"
        )
