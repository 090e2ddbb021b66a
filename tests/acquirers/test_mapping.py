"""Mappings to a host's JSON: values both ways, keys, and that every mistake of a file is found at once."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.acquirers import mapping as mapping_module
from gateway.acquirers.mapping import Doubt, HttpMapping, HttpReply, UnmappableMessage, idempotency_key, original_key
from gateway.acquirers.mapping_file import MappingError, load_mapping, mapping_of, shipped_mappings
from gateway.acquirers.mapping_values import Slot, ValueMistake, ValueType
from gateway.core.effects import Purpose
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import HostRules, OriginalForm
from tests.acquirers.conformance import PAN
from tests.acquirers.http_host import MAPPING

PAGE = Path(__file__).parents[2] / "docs" / "add-your-http-acquirer.md"
TERN = Path(mapping_module.__file__).parent / "mappings" / "tern.toml"
SALE: Fields = {
    2: PAN, 3: "000000", 4: "000000001234", 7: "0301120000", 11: "000042", 12: "101112", 13: "0301", 14: "3012",
    22: "051", 41: "T0000001", 42: "M0001          ", 49: "156", 60: "22000017000",
}  # fmt: skip


def tern() -> HttpMapping:
    return load_mapping("tern")


def sent(fields: Fields, mti: str = "0200") -> dict[str, Any]:
    made = tern().request(Message(mti, fields), Purpose.REQUEST).body
    assert made is not None
    parsed: dict[str, Any] = json.loads(made)
    return parsed


def read(given: object, status: int = 200, mti: str = "0200") -> Fields | Doubt:
    reply = HttpReply(status=status, content_type="application/json", body=json.dumps(given).encode())
    return tern().answer(reply, Message(mti, SALE), Purpose.REQUEST)


OWN = {"stan": "000042", "terminal": "T0000001", "merchant": "M0001"}


def test_a_message_becomes_what_the_file_says() -> None:
    assert sent(SALE) == {
        "card": {"number": PAN, "expiry": "2030-12"},
        "amount": {"minor": 1234, "currency": "CNY"},
        "stan": "000042",
        "local": {"time": "10:11:12", "date": "03-01"},
        "entry_mode": "051",
        "terminal": "T0000001",
        "merchant": "M0001",
        "batch": "000017",
    }


def test_the_page_tells_of_the_mapping_that_is_shipped() -> None:
    found = re.search(r"tern.toml: begin -->\n```toml\n(.*?)```\n<!-- tern.toml: end", PAGE.read_text(), re.DOTALL)
    assert found, "the page's TOML stands between its marks"
    assert mapping_of("tern.toml", tomllib.loads(found[1])) == tern()
    assert shipped_mappings() == ("tern",)


def test_the_pages_example_of_a_request_is_what_is_sent() -> None:
    found = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    fields = {n: v for n, v in SALE.items() if n in (3, 4, 11, 13, 14, 41, 42, 49)} | {2: "6212345678900000003"}
    assert json.loads(found[1]) == sent(fields)


@given(st.integers(0, 10**12 - 1))
def test_amounts_come_back_to_the_minor_unit(amount_minor: int) -> None:
    slot = Slot(label="4", number=4, paths=(("a",),), type=ValueType.MINOR)
    there = json.loads(json.dumps(slot.to_json(f"{amount_minor:012}")))
    assert there == amount_minor
    assert slot.from_json(there) == f"{amount_minor:012}"


@given(st.one_of(st.floats(), st.booleans(), st.text(), st.none(), st.integers(max_value=-1), st.integers(10**12)))
def test_nothing_but_a_whole_number_of_minor_units_is_an_amount(value: Any) -> None:
    with pytest.raises(ValueMistake):
        Slot(label="4", number=4, paths=(("a",),), type=ValueType.MINOR).from_json(value)


@given(st.text(max_size=30))
def test_an_amount_that_is_not_digits_is_not_sent_and_not_told(text: str) -> None:
    slot = Slot(label="4", number=4, paths=(("a",),), type=ValueType.MINOR)
    digits = text.rstrip(" ")
    if not digits:
        assert slot.to_json(text) is None
    elif digits.isascii() and digits.isdecimal() and len(digits) <= 12:
        assert slot.to_json(text) == int(digits)
    else:
        with pytest.raises(ValueMistake, match=r"^field 4 must (be digits|have at most 12 digits)$"):
            slot.to_json(text)


@given(st.from_regex(r"[0-9]{10}", fullmatch=True))
def test_dates_come_back(value: str) -> None:
    slot = Slot(
        label="7", number=7, paths=(("a",),), type=ValueType.DATE, date_field="MMDDhhmmss", date_json="DD.MM. hh:mm:ss"
    )
    assert slot.from_json(slot.to_json(value)) == value


def test_what_cannot_be_sent_is_said_beforehand_without_values() -> None:
    mapping = tern()
    assert mapping.unencodable(Message("0200", SALE)) == ""
    for mti, change, reason in (
        ("0200", {4: ""}, "field 4 is missing"),
        ("0200", {4: "98765x"}, "field 4 must be digits"),
        ("0200", {49: "987"}, "field 49 holds a value that codes does not name"),
        ("0200", {14: "98-76"}, "field 14 must have the form YYMM"),
        ("0500", {}, "message type 0500 is not mapped"),
        ("98765", {}, "an MTI has four digits"),
        ("0400", {}, "field 90 must name the original"),
    ):
        text = mapping.unencodable(Message(mti, {**SALE, **change}))
        assert (text if mti != "98765" else reason) == reason
        assert text
        assert not any(value in text for value in change.values() if value)
    with pytest.raises(UnmappableMessage):
        mapping.request(Message("0200", {**SALE, 4: ""}), Purpose.REQUEST)


def test_a_repeat_is_the_first_send_again_and_nothing_else_has_its_key() -> None:
    host = tern().host
    fields = {**SALE, 90: "0200000042" + SALE[7] + "0" * 22}
    advice = tern().request(Message("0220", fields), Purpose.ADVICE)
    assert tern().request(Message("0221", fields), Purpose.ADVICE) == advice
    keys = [
        idempotency_key(mti, {**SALE, **change}, host)
        for mti, change in (
            ("0200", {}), ("0220", {}), ("0400", {}), ("0100", {}), ("0200", {11: "000043"}), ("0200", {41: "T2"}),
            ("0200", {42: "M2"}), ("0200", {13: "0302"}), ("0200", {60: "22000018000"}),
        )
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[0-9]{4}-[0-9a-f]{32}", key) for key in keys)
    assert idempotency_key("0200", {**SALE, 4: "9", 7: "0909090909"}, host) == keys[0]


@given(st.sampled_from(["0100", "0200", "0220"]), st.booleans(), st.from_regex(r"[0-9]{6}", fullmatch=True))
def test_a_reversal_names_its_original_by_the_key_that_it_had(mti: str, dated: bool, stan: str) -> None:
    host = HostRules(original=OriginalForm.DE_90)
    original = {**SALE, 11: stan}
    if not dated:
        del original[13]
    reversal = {**original, 11: "999999", 7: "0302000000", 90: mti + stan + original[7] + "0" * 22}
    assert original_key(reversal, host) == idempotency_key(mti, original, host)
    assert idempotency_key("0400", reversal, host) != original_key(reversal, host)


def test_two_terminals_have_keys_of_their_own_also_at_a_host_that_gives_back_no_more_than_the_stan() -> None:
    host = HostRules(match_fields=(11,))
    keys = {
        idempotency_key("0200", {**SALE, **change}, host)
        for change in ({}, {41: "T0000002"}, {42: "M0002          "}, {41: "T0000002", 42: "M0002          "})
    }
    assert len(keys) == 4


def test_sales_that_are_two_have_two_keys_under_one_stan() -> None:
    undated = {number: value for number, value in SALE.items() if number != 13}
    keys = {
        idempotency_key("0200", sale, HostRules())
        for sale in (SALE, undated, {**undated, 7: "0301180000"}, {**undated, 7: "0302120000"})
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("habits", "missing"),
    [
        ("reversal_fields = [2, 3, 4, 11, 38, 41, 42, 49]", "13, 60"),
        ("reversal_fields = [2, 3, 4, 11, 13, 41, 42, 49, 60]", ""),
        ("batch_field = 62", "62"),
        ("match_fields = [11, 24, 41, 42]", "24"),
        ("match_fields = [7, 11]", ""),
    ],
)
def test_a_reversal_carries_what_the_key_of_its_original_is_made_of(habits: str, missing: str) -> None:
    text = MAPPING.replace('path = "/0400"', 'path = "/0400"\noriginal_key = "original"') + f"[host]\n{habits}\n"
    if not missing:
        mapping_of("f.toml", tomllib.loads(text))
        return
    with pytest.raises(MappingError) as wrong:
        mapping_of("f.toml", tomllib.loads(text))
    (told,) = wrong.value.mistakes
    assert told.startswith(f"f.toml: host.reversal_fields must have {missing} too")


@pytest.mark.parametrize(
    ("habits", "fields", "missing"),
    [
        ("", "", ""),
        ("reversal_fields = [4, 11, 13, 41, 42, 60]", "", "49"),
        ("", "23 = { path = 'card.sequence', required = true }", ""),
        ("", "24 = { path = 'function', required = true }", "24"),
        ("reason_field = 39", "39 = { path = 'why', required = true }", ""),
        ("", "90 = { path = 'of', required = true }", ""),
    ],
)
def test_what_a_reversal_must_have_it_is_given(habits: str, fields: str, missing: str) -> None:
    own = "fields = { 55 = false, 35 = false"
    text = TERN.read_text(encoding="utf-8").replace(own, f"{own}, {fields}" if fields else own)
    text += f"[host]\n{habits}\n"
    if not missing:
        mapping_of("f.toml", tomllib.loads(text))
        return
    with pytest.raises(MappingError) as wrong:
        mapping_of("f.toml", tomllib.loads(text))
    assert wrong.value.mistakes[0].startswith(f"f.toml: host.reversal_fields must have {missing} too: [messages.0400]")


def test_answers_are_read_by_their_words() -> None:
    assert read({**OWN, "outcome": "approved", "id": "p-1", "approval": "123456"}) == {
        11: "000042", 41: "T0000001", 42: "M0001          ", 39: "00", 37: "p-1", 38: "123456",
    }  # fmt: skip
    declined = read({**OWN, "outcome": "declined", "reason": "no_funds"})
    assert isinstance(declined, dict)
    assert declined[39] == "51"
    other = read({**OWN, "outcome": "declined", "reason": "mood", "id": "longer than twelve characters"})
    assert isinstance(other, dict)
    assert (other[39], 37 in other) == ("05", False)


@pytest.mark.parametrize(
    "given",
    [
        {**OWN, "outcome": "pending"},
        {**OWN, "outcome": "approved", "reason": "no_funds"},
        {**OWN, "outcome": True},
        {**OWN, "outcome": ["approved"]},
        {**OWN, "stan": 42, "outcome": "approved"},
        {**OWN, "merchant": "M0002", "outcome": "approved"},
        {"outcome": "approved"},
        [],
        "approved",
        None,
    ],
)
def test_an_answer_that_is_not_surely_this_payments_outcome_proves_nothing(given: object) -> None:
    assert isinstance(read(given), Doubt)


def test_statuses_are_read_as_the_file_says_and_else_prove_nothing() -> None:
    assert {s: read({}, s) for s in (401, 422, 503)} == {
        s: {11: "000042", 41: "T0000001", 42: SALE[42], 39: code} for s, code in ((401, "96"), (422, "30"), (503, "91"))
    }
    for status in (100, 301, 308, 400, 404, 408, 429, 500, 502, 504, 599, 999):
        assert isinstance(read({**OWN, "outcome": "approved"}, status), Doubt)


def test_every_mistake_of_a_file_is_told_at_once_with_its_key() -> None:
    table = tomllib.loads("""
key_header = "a b"
sort = 1
[fields]
0 = { path = "x" }
3 = { path = "a..b" }
4 = { path = "amount", type = "decimal" }
5 = { path = "amount.minor" }
13 = { path = "date", type = "date", to = "YYYY-MM-DD" }
14 = { path = "expiry", type = "date" }
49 = { path = "currency", type = "minor", codes = { 156 = "CNY" } }
"60.2" = { path = "batch", start = 2 }
[constants]
"a b" = 1
kind = 1.5
[answer]
11 = { path = "stan", codes = { a = "b" } }
39 = { path = "outcome", codes = { approved = "OK!" } }
[messages.0200]
path = "payments?x=1"
method = "PUT"
fields = { 7 = false }
original_key = "o"
[messages.0210]
path = "/x"
[probe]
[status]
301 = "00"
200 = "05"
500 = "05"
422 = "00"
503 = "no"
[host]
match_fields = [2, 41]
repeat_refresh = [7]
""")
    with pytest.raises(MappingError) as wrong:
        mapping_of("f.toml", table)
    told = wrong.value.mistakes
    for key in (
        "name", "key_header", "sort", "fields.0", "fields.3.path", "fields.4.type", "fields.13.to", "fields.14.to",
        "fields.49.codes", "fields.60.2.length", "constants.a b", "constants.kind", "answer.39.codes.approved",
        "messages.0200 must not put field 5", "messages.0200.path", "messages.0200.method", "messages.0200.fields.7",
        "messages.0200.original_key", "messages.0210", "messages.0400", "messages.0220", "probe.path", "status.301",
        "status.200", "status.500", "status.422", "status.503", "host.match_fields must have",
        "host.match_fields must not have", "host.repeat_refresh must not have",
    ):  # fmt: skip
        assert sum(line.startswith(f"f.toml: {key} ") for line in told) >= 1, (key, told)
    assert len(told) == len(set(told))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ('39 = { path = "code", iso = true }', ""),
        ('39 = { path = "code" }', "answer.39.codes"),
        ('39 = { path = "code", iso = true, required = false }', "answer.39.required"),
        ('39 = { constant = "approved" }', "answer.39.constant"),
        ('39 = { path = "code", iso = true }\n64 = { path = "mac" }', "answer.64"),
        ('39 = { path = "code", iso = true }\n32 = { path = "n", type = "number" }', "answer.32.digits"),
    ],
)
def test_what_says_the_outcome_is_looked_at_closely(change: str, key: str) -> None:
    text = MAPPING.replace('39 = { path = "code", iso = true }', change)
    if not key:
        mapping_of("f.toml", tomllib.loads(text))
        return
    with pytest.raises(MappingError) as wrong:
        mapping_of("f.toml", tomllib.loads(text))
    assert all(f"f.toml: {key} " in line for line in wrong.value.mistakes)


def test_an_absent_or_broken_file_is_a_mistake_too(tmp_path: Path) -> None:
    broken = tmp_path / "m.toml"
    broken.write_text("name =", encoding="utf-8")
    for name, text in ((str(broken), "not TOML"), (str(tmp_path / "no.toml"), "cannot be read"), ("gull", "shipped")):
        with pytest.raises(MappingError, match=text):
            load_mapping(name)


def test_a_business_that_the_mapping_does_not_know_is_never_sent_as_a_sale() -> None:
    mapping = tern()
    reason = "message type 0200 is not mapped for the business of field 3"
    for code in ("010000", "310000", "030000", "200001"[:6].replace("20", "90"), ""):
        assert mapping.unencodable(Message("0200", {**SALE, 3: code})) == reason
    paths = {
        (mti, code): mapping.request(Message(mti, {**SALE, 3: code}), Purpose.REQUEST).path
        for mti, code in (("0200", "000000"), ("0200", "200000"), ("0220", "200000"), ("0220", "000000"))
    }
    assert list(paths.values()) == ["/v1/payments", "/v1/voids", "/v1/refunds", "/v1/payments/offline"]


@pytest.mark.parametrize("mti", ["0200", "0220"])
def test_tern_is_told_which_sale_a_void_or_a_refund_is_of(mti: str) -> None:
    made = tern().request(Message(mti, {**SALE, 3: "200000", 61: "0000070000410301"}), Purpose.REQUEST)
    assert json.loads(made.body or b"{}")["of"] == {"batch": "000007", "stan": "000041"}
    assert "of" not in json.loads(tern().request(Message(mti, {**SALE, 3: "200000"}), Purpose.REQUEST).body or b"{}")


def test_a_host_that_is_told_the_business_in_the_body_needs_one_table() -> None:
    table = tomllib.loads(TERN.read_text(encoding="utf-8"))
    table["fields"]["3"] = {"path": "kind"}
    del table["messages"]["0200/20"]
    made = mapping_of("x", table).request(Message("0200", {**SALE, 3: "200000"}), Purpose.REQUEST)
    assert made.path == "/v1/payments"
    assert b'"kind":"200000"' in (made.body or b"")


def test_an_answer_that_names_another_amount_says_so() -> None:
    given = {
        "stan": "000042",
        "terminal": "T0000001",
        "merchant": "M0001",
        "outcome": "approved",
        "amount": {"minor": 999},
    }
    fields = read(given)
    assert isinstance(fields, dict)
    assert fields[4] == "000000000999"
