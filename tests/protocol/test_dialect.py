"""A dialect file is checked as a whole, and a good one becomes formats, rules and a codec."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.framing import LengthPrefix
from protocol.iso8583.dialect import DialectError, load_dialect, shipped_dialects
from protocol.iso8583.fields import Counts, FieldType, PadSide, ValueEncoding
from protocol.iso8583.message import Message
from protocol.iso8583.rules import HostRules, OriginalForm, Period, TerminalRules

SMALL = """
name = "acme"
[framing]
length = "bcd-2"
limit_bytes = 1000
[defaults]
length_encoding = "bcd"
[defaults.n]
encoding = "bcd"
pad = "right"
[fields]
2 = { name = "PAN", type = "n", length = "LL", max = 19 }
3 = { type = "n", length = 6 }
39 = { type = "an", length = 2 }
41 = { type = "ans", length = 8, encoding = "binary" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "acme.toml"


def mistakes_of(file: Path, text: str) -> tuple[str, ...]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DialectError) as caught:
        load_dialect(str(file))
    assert all(mistake.startswith(str(file)) for mistake in caught.value.mistakes)
    return tuple(mistake.removeprefix(f"{file}: ") for mistake in caught.value.mistakes)


def test_three_dialects_are_shipped_under_their_own_names() -> None:
    assert shipped_dialects() == ("iso87-ascii", "iso87-binary", "unionpay")
    for name in shipped_dialects():
        assert load_dialect(name).name == name
        assert load_dialect(name) is load_dialect(name)


def test_the_iso_dialects_have_every_field() -> None:
    for name in ("iso87-ascii", "iso87-binary"):
        dialect = load_dialect(name)
        assert set(dialect.fields) == set(range(2, 129)) - {65}
        assert all(spec.name for spec in dialect.fields.values())
        assert not dialect.tpdu
        assert dialect.header_bytes == 0
        assert dialect.terminal.period is Period.DATE
        assert dialect.terminal.date_field == 13
        assert dialect.terminal.original is dialect.host.original is OriginalForm.DE_90
        assert (dialect.host.echo_mti, dialect.host.echo_fields) == ("0800", {70: "301"})
    assert load_dialect("iso87-ascii").framing.length is LengthPrefix.ASCII_4
    assert load_dialect("iso87-binary").framing.length is LengthPrefix.BINARY_2


def test_the_formats_of_both_iso_dialects_differ_in_encoding_only() -> None:
    text, packed = load_dialect("iso87-ascii").fields, load_dialect("iso87-binary").fields
    for number, spec in text.items():
        other = packed[number]
        assert (spec.type, spec.length, spec.prefix_digits) == (other.type, other.length, other.prefix_digits), number


def test_unionpay_has_its_terminals_and_hosts_habits() -> None:
    dialect = load_dialect("unionpay")
    assert dialect.framing.length is LengthPrefix.BINARY_2
    assert (dialect.tpdu, dialect.header_bytes) == (True, 6)
    assert max(dialect.fields) == 64
    terminal, host = dialect.terminal, dialect.host
    assert (terminal.period, terminal.batch_field) == (Period.BATCH, 60)
    assert "22000727000"[terminal.batch_start : terminal.batch_start + terminal.batch_length] == "000727"
    assert terminal.original is host.original is OriginalForm.SAME_STAN
    assert host.reason_field == 39
    assert set(host.reversal_fields) >= {3, 4, 11, 22, 25, 38, 41, 42, 60}  # D12
    assert (host.echo_mti, host.echo_fields[60][8:11]) == ("0820", "301")
    assert "00" in host.approved_codes


@pytest.mark.parametrize("name", shipped_dialects())
def test_the_echo_and_what_a_reversal_repeats_can_be_sent(name: str) -> None:
    dialect = load_dialect(name)
    front = (bytes(5 if dialect.tpdu else 0), bytes(dialect.header_bytes))
    assert dialect.codec.encode(Message(dialect.host.echo_mti, dict(dialect.host.echo_fields), *front))
    for numbers in (dialect.host.reversal_fields, dialect.host.match_fields, dialect.terminal.answer_echo):
        assert set(numbers) <= set(dialect.fields)


@pytest.mark.parametrize("name", shipped_dialects())
def test_sensitive_authentication_data_is_named_and_kept_by_nobody(name: str) -> None:
    terminal = load_dialect(name).terminal
    assert terminal.sensitive_fields >= {35, 36, 52, 55}
    assert not terminal.retained_sensitive_fields
    assert not terminal.sensitive_fields & set(terminal.answer_echo)


def test_a_short_file_takes_its_defaults(file: Path) -> None:
    file.write_text(SMALL, encoding="utf-8")
    dialect = load_dialect(str(file))
    assert dialect.fields[2].encoding is ValueEncoding.BCD
    assert dialect.fields[2].pad is PadSide.RIGHT
    assert dialect.fields[2].counts is Counts.DIGITS
    assert dialect.fields[39].encoding is ValueEncoding.ASCII
    assert dialect.fields[41].is_hex
    assert dialect.fields[41].type is FieldType.ANS
    assert dialect.terminal == TerminalRules()
    assert dialect.host == HostRules()
    frame = dialect.codec.encode(Message("0200", {2: "411", 41: "0011223344556677"}))
    assert frame.hex() == "30323030" + "4000000000800000" + "034110" + "0011223344556677"


def test_rules_of_every_kind_are_read(file: Path) -> None:
    rules = """
[terminal]
period = "horizon"
horizon_hours = 48
original = "same-stan"
sensitive_fields = [2]
answer_echo = [2, 3]
default_currency = "978"
[host]
match_fields = [41]
repeat_request = true
repeat_refresh = [3]
reason_field = 0
advice_mti = "0220"
echo_fields = { 3 = "990000" }
approved_codes = ["00", "Y1"]
"""
    file.write_text(SMALL + rules, encoding="utf-8")
    dialect = load_dialect(str(file))
    assert dialect.terminal == TerminalRules(
        period=Period.HORIZON,
        horizon_hours=48,
        original=OriginalForm.SAME_STAN,
        sensitive_fields=frozenset({2}),
        answer_echo=(2, 3),
        default_currency="978",
    )
    assert dialect.host == HostRules(
        match_fields=(41,),
        repeat_request=True,
        repeat_refresh=frozenset({3}),
        reason_field=0,
        echo_fields={3: "990000"},
        approved_codes=frozenset({"00", "Y1"}),
    )


def test_every_mistake_of_a_file_is_told_at_once(file: Path) -> None:
    text = """
tpu = true
mti = "ebcdic"
header_bytes = -1
[framing]
length = "binary-2"
limit_bytes = 99999
[defaults]
paddding = "left"
[defaults.n]
encodng = "bcd"
[fields]
1 = { type = "b", length = 8 }
65 = { type = "b", length = 8 }
02 = { type = "n", length = 6 }
3 = { type = "n", length = 6, colour = "red" }
4 = { type = "q", length = 12 }
5 = { type = "n", length = "LL" }
6 = { type = "n", length = "LLLLL", max = 3 }
7 = { type = "n", length = "LL", max = 100 }
8 = { length = 3 }
9 = { type = "n" }
10 = 6
12 = { type = "b", length = 8, encoding = "bcd" }
13 = { type = "n", length = 4, max = 4 }
14 = { type = "z", length = 4, separator = "5" }
15 = { type = "ans", length = 4, tlv = true }
16 = { type = "n", length = 3, pad_nibble = "x" }
17 = { type = "xn", length = "LL", max = 8 }
18 = { type = "n", length = 0 }
[terminal]
period = "moon"
horizon_hours = "24"
date_field = 90
answer_echo = [3, 127]
default_currency = "EUR"
colour = 1
[host]
match_fields = "11"
repeat_request = 1
reversal_mti = "0410"
approved_codes = ["000"]
echo_fields = { 3 = "1", 99 = "1" }
"""
    mistakes = mistakes_of(file, text)
    keys = [mistake.split(" ", 1)[0] for mistake in mistakes]
    expected = {
        "name", "tpu", "mti", "header_bytes", "framing.limit_bytes", "defaults.paddding",
        "defaults.n.encodng", "fields.1", "fields.65", "fields.02", "fields.3.colour", "fields.4.type",
        "fields.5.max", "fields.6.length", "fields.7.max", "fields.8.type", "fields.9.length", "fields.10",
        "fields.12.encoding", "fields.13.max", "fields.14.separator", "fields.15.tlv",
        "fields.16.pad_nibble", "fields.17.length", "fields.18.length", "terminal.period",
        "terminal.horizon_hours", "terminal.date_field", "terminal.answer_echo",
        "terminal.default_currency", "terminal.colour", "host.match_fields", "host.repeat_request",
        "host.reversal_mti", "host.approved_codes", "host.echo_fields.99",
    }  # fmt: skip
    assert expected <= set(keys), expected - set(keys)
    known = "known are"
    assert all("must" in m or "is " in m or "has no place" in m or "needs" in m or known in m for m in mistakes)


def test_an_echo_that_does_not_fit_its_field_is_a_mistake(file: Path) -> None:
    assert mistakes_of(file, SMALL + '[host]\necho_fields = { 3 = "1" }') == (
        "host.echo_fields.3 must fit the field: 1 digits, not exactly 6",
    )


def test_a_dialect_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(DialectError, match="unionpay"):
        load_dialect("iso99")
    with pytest.raises(DialectError, match="cannot be read"):
        load_dialect("nowhere/iso99.toml")


@pytest.mark.parametrize("text", ["name = ", "\x00", "fields = 3\nframing = []\nname = 1"])
def test_what_is_no_dialect_is_refused(file: Path, text: str) -> None:
    assert mistakes_of(file, text)


def test_text_that_is_not_utf_8_is_refused(file: Path) -> None:
    file.write_bytes(b"name = '\xff'")
    with pytest.raises(DialectError, match="not TOML"):
        load_dialect(str(file))


DIFFERENT = """
name = "acme"
extends = "unionpay"
header_bytes = 8
[framing]
limit_bytes = 2048
[defaults]
pad = "left"
[defaults.n]
pad_nibble = "f"
[fields]
58 = false
57 = { name = "Loyalty", type = "ans", length = "LLL", max = 40 }
60 = { max = 60 }
61 = { length = 16 }
62 = { type = "b", length = "LL", max = 20 }
[terminal]
period = "date"
[host]
repeat_advice = true
echo_fields = { 3 = "990000" }
"""


def test_a_file_that_extends_a_shipped_dialect_says_only_what_differs(file: Path) -> None:
    file.write_text(DIFFERENT, encoding="utf-8")
    dialect, base = load_dialect(str(file)), load_dialect("unionpay")
    assert (dialect.name, dialect.tpdu, dialect.header_bytes) == ("acme", True, 8)
    assert (dialect.framing.length, dialect.framing.limit_bytes) == (LengthPrefix.BINARY_2, 2048)
    assert set(dialect.fields) == set(base.fields) - {58} | {57}
    assert (dialect.fields[60].name, dialect.fields[60].length) == (base.fields[60].name, 60)
    assert (dialect.fields[61].prefix_digits, dialect.fields[61].length) == (0, 16)
    assert (dialect.fields[62].name, dialect.fields[62].prefix_digits) == ("", 2)
    assert (dialect.fields[22].pad, dialect.fields[22].pad_nibble) == (PadSide.LEFT, "f")
    assert dialect.fields[35].pad is PadSide.LEFT
    assert dialect.fields[22].encoding is ValueEncoding.BCD
    assert (dialect.terminal.period, dialect.terminal.original) == (Period.DATE, OriginalForm.SAME_STAN)
    assert (dialect.host.repeat_advice, dialect.host.echo_fields) == (True, {3: "990000"})
    assert dialect.host.reversal_fields == base.host.reversal_fields


@pytest.mark.parametrize("name", shipped_dialects())
def test_a_file_with_nothing_but_a_name_is_the_dialect_that_it_extends(name: str, file: Path) -> None:
    file.write_text(f'name = "acme"\nextends = "{name}"', encoding="utf-8")
    own, base = load_dialect(str(file)), load_dialect(name)
    assert (own.framing, own.tpdu, own.fields) == (base.framing, base.tpdu, base.fields)
    assert (own.terminal, own.host) == (base.terminal, base.host)
    assert own.codec.layout == base.codec.layout


def test_mistakes_of_a_file_that_extends_another_name_its_own_file_and_key(file: Path) -> None:
    text = DIFFERENT.replace("58 = false", "36 = true\n60 = 3\n41 = false\n999 = false\n11 = { max = 6 }")
    text = text.replace("60 = { max = 60 }", "").replace("header_bytes = 8", "header_byte = 8").replace('"acme"', '""')
    mistakes = mistakes_of(file, text.replace("limit_bytes = 2048", 'limit_bytes = "2048"'))
    assert {
        "name must be the dialect's name",
        "fields.36 must be a table with type and length",
        "fields.60 must be a table with type and length",
        "fields.999 must be a field number from 2 to 128, not 65",
        "fields.11.max has no place beside a fixed length",
        "framing.limit_bytes must be a whole number within 16 and 65535",
    } <= set(mistakes)
    assert any(mistake.startswith("header_byte is not known") for mistake in mistakes)
    # What was not written in this file says where it was.
    wanted = "host.match_fields must name fields of the dialect; 41 is none (taken over from unionpay)"
    assert wanted in mistakes


def test_a_mistake_in_a_field_is_told_once_and_not_again_for_each_rule_that_names_the_field(file: Path) -> None:
    text = 'name = "acme"\nextends = "unionpay"\n[fields]\n60 = { max = 1000 }'
    assert mistakes_of(file, text) == ("fields.60.max is more than the length can say, 999",)


@pytest.mark.parametrize("base", ['"acme"', '"other.toml"', '""', "3", "[]", "{}"])
def test_only_shipped_dialects_can_be_extended(file: Path, base: str) -> None:
    (mistake,) = mistakes_of(file, f'name = "acme"\nextends = {base}')
    assert mistake == "extends must be the name of a shipped dialect: iso87-ascii, iso87-binary, unionpay"


@pytest.mark.parametrize("part", ["fields = 3", "defaults = []", "framing = 1", 'host = ""', "[defaults]\nn = 1"])
def test_tables_of_the_wrong_shape_in_a_file_that_extends_another_are_mistakes(file: Path, part: str) -> None:
    assert mistakes_of(file, f'name = "acme"\nextends = "unionpay"\n{part}')


LINES = Path(str(Path(__file__).parents[2] / "protocol/iso8583/dialects/unionpay.toml")).read_text("utf-8").splitlines()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_raises_only_a_dialect_error(file: Path, data: st.DataObject) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        change = data.draw(st.sampled_from(["drop", "swap", "number", "string", "list"]))
        key = lines[place].partition("=")[0]
        replacement = {
            "drop": "",
            "swap": "x = 1",
            "number": f"{key} = 7",
            "string": f'{key} = "n"',
            "list": f"{key} = []",
        }
        lines[place] = replacement[change]
    file.write_text("\n".join(lines), encoding="utf-8")
    try:
        dialect = load_dialect(str(file))
    except DialectError as error:
        mistakes = error.mistakes
        assert mistakes
    else:
        assert dialect.fields
