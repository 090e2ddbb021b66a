"""Lists, shows and checks dialects: what stands behind `holdfast dialect list`, `show` and `check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.operations.learned import table
from protocol.iso8583.dialect import Dialect, dialect_of, load_dialect, read_toml, shipped_dialects
from protocol.iso8583.fields import FieldSpec
from protocol.iso8583.rules import OriginalForm, Period
from protocol.mac_method import MacMethod

_NEEDED = {3: "the processing code", 4: "the amount", 11: "the STAN", 41: "the terminal", 42: "the merchant"}


def listed() -> list[dict[str, Any]]:
    """The shipped dialects, one table each: name, fields, and how a frame begins."""
    return [summary_of(load_dialect(name)) for name in shipped_dialects()]


def summary_of(dialect: Dialect) -> dict[str, Any]:
    """A dialect at a glance; its fields only by their count."""
    layout = dialect.codec.layout
    return {
        "name": dialect.name,
        "fields": len(dialect.fields),
        "length_prefix": str(dialect.framing.length),
        "tpdu": dialect.tpdu,
        "header_bytes": dialect.header_bytes,
        "mti": str(layout.mti),
        "bitmap": str(layout.bitmap),
        "identity": str(dialect.terminal.period),
        "reversal": str(dialect.host.original),
    }


def described(dialect: Dialect) -> dict[str, Any]:
    """A dialect with the format of each of its fields."""
    return summary_of(dialect) | {
        "mac": {
            "terminal": str(dialect.terminal.mac_method),
            "keys": str(dialect.terminal.mac_keys),
            "host": str(dialect.host.mac_method),
        },
        "settles": {"terminal": dialect.terminal.settles, "host": dialect.host.settles},
        "fields": [
            {
                "field": number,
                "name": spec.name,
                "type": str(spec.type),
                "length": "L" * spec.prefix_digits or spec.length,
                "max": spec.length,
                "wire": wire_of(spec),
                "sensitive": number in dialect.terminal.sensitive_fields,
            }
            for number, spec in dialect.fields.items()
        ],
    }


def wire_of(spec: FieldSpec) -> str:
    """How a field stands on the wire, in a few words."""
    words = [str(spec.encoding)]
    if spec.prefix_digits:
        words.append(f"length {spec.length_encoding}")
        if spec.is_packed or spec.is_hex:
            words.append(f"counts {spec.counts if spec.is_packed or spec.counts_hex_digits else 'bytes'}")
    if spec.is_packed and (spec.prefix_digits or spec.length % 2):
        words.append(f"pad {spec.pad_nibble} {spec.pad}")
    return ", ".join(words)


def listed_text() -> str:
    """The shipped dialects as a table."""
    columns = ("name", "fields", "length in front", "TPDU", "header", "MTI", "bitmap", "identity by", "reversal")
    return table(columns, [[_word(value) for value in row.values()] for row in listed()])


def described_text(dialect: Dialect) -> str:
    """A dialect in words, and its fields as a table."""
    shown = described(dialect)
    terminal, host = dialect.terminal, dialect.host
    front = (
        f"length {shown['length_prefix']}, at most {dialect.framing.limit_bytes} bytes; "
        f"{'TPDU, ' if dialect.tpdu else ''}header {dialect.header_bytes} bytes, "
        f"MTI {shown['mti']}, bitmap {shown['bitmap']}"
    )
    repeated = [word for word in ("request", "advice", "reversal") if getattr(host, f"repeat_{word}")]
    lines = [
        f"Dialect {dialect.name}",
        f"  frame      {front}",
        f"  identity   {_identity(dialect)}",
        f"  reversal   {terminal.original} from the terminal, {host.original} to the host ({host.reversal_mti})",
        f"  advice     {host.advice_mti}",
        f"  repeats    {', '.join(repeated) or 'none'} by the message type's last digit",
        f"  MAC        {_mac(dialect)}",
        f"  settlement {_settlement(dialect)}",
    ]
    rows = [
        (
            one["field"],
            one["name"],
            one["type"],
            f"{one['length']} {one['max']}" if isinstance(one["length"], str) else one["length"],
            one["wire"],
            "sensitive" if one["sensitive"] else "",
        )
        for one in shown["fields"]
    ]
    return "\n".join([*lines, "", table(("field", "name", "type", "length", "on the wire", ""), rows)])


def _identity(dialect: Dialect) -> str:
    terminal = dialect.terminal
    if terminal.period is Period.BATCH:
        end = terminal.batch_start + terminal.batch_length
        return f"by batch: field {terminal.batch_field}, digits {terminal.batch_start + 1} to {end}"
    if terminal.period is Period.DATE:
        return f"by date: field {terminal.date_field}"
    return f"by the newest of the same STAN within {terminal.horizon_hours} hours"


def _mac(dialect: Dialect) -> str:
    terminal, host = dialect.terminal, dialect.host
    if MacMethod.NONE is terminal.mac_method is host.mac_method:
        return "none"
    return (
        f"{terminal.mac_method} from the terminal in field {terminal.mac_field}, keys by {terminal.mac_keys}; "
        f"{host.mac_method} to the host in field {host.mac_field}"
    )


def _settlement(dialect: Dialect) -> str:
    if not dialect.terminal.settles:
        return "none"
    host = "the host settles as well" if dialect.host.settles else "the host does not settle"
    return f"a batch at a time, totals in field {dialect.terminal.totals_field}; {host}"


def _word(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value


@dataclass(frozen=True, slots=True)
class Checked:
    """A dialect file without mistakes.

    Attributes:
        summary: one line.
        remarks: what is allowed, and yet probably not meant.
    """

    dialect: Dialect
    summary: str
    remarks: tuple[str, ...]


def checked(file: Path) -> Checked:
    """Load a dialect file and look at it as a whole.

    Raises:
        DialectError: with every mistake of the file.
    """
    written = read_toml(file)
    dialect = dialect_of(str(file), written)
    own = f", extends {written['extends']}" if "extends" in written else ""
    summary = f"{file}: no mistakes; dialect {dialect.name}{own}, {len(dialect.fields)} fields"
    return Checked(dialect, summary, tuple(_remarks(dialect)))


def _remarks(dialect: Dialect) -> list[str]:
    """What a rule would read from a field that the dialect does not have: mostly a default that nobody looked at."""
    fields, terminal, host = dialect.fields, dialect.terminal, dialect.host
    found = [
        f"fields.{number} ({what}) is missing: requests of such a terminal cannot be accepted"
        for number, what in _NEEDED.items()
        if number not in fields
    ]
    if terminal.period is Period.BATCH and terminal.batch_field not in fields:
        found.append(f"terminal.batch_field is {terminal.batch_field}, which the dialect does not have (D1)")
    if terminal.period is Period.DATE and terminal.date_field not in fields:
        found.append(f"terminal.date_field is {terminal.date_field}, which the dialect does not have (D1)")
    if OriginalForm.DE_90 in (terminal.original, host.original) and 90 not in fields:
        found.append('original is "de90", and the dialect does not have field 90 (D12)')
    if not set(host.match_fields) <= set(fields):
        found.append("host.match_fields names fields that the dialect does not have: no answer could be matched")
    if not set(host.echo_fields) <= set(fields):
        found.append("host.echo_fields names fields that the dialect does not have: the echo test cannot be sent")
    for side, rules in (("terminal", terminal), ("host", host)):
        if rules.mac_method is not MacMethod.NONE and rules.mac_field not in fields:
            found.append(f"{side}.mac_field is {rules.mac_field}, which the dialect does not have")
    if terminal.settles and not {terminal.totals_field, terminal.network_field} <= set(fields):
        found.append("terminal.totals_field or network_field names a field that the dialect does not have")
    if 39 not in fields:
        found.append("fields.39 (the response code) is missing: answers have no outcome")
    if kept := sorted(terminal.retained_sensitive_fields):
        found.append(
            f"terminal.retained_sensitive_fields stores {', '.join(map(str, kept))} until a sale is final (D10)"
        )
    return found
