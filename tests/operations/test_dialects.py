"""`holdfast dialect`: a dialect is shown and checked, and a capture says where it does not fit; no card is printed."""

from __future__ import annotations

import io
import json
import random
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.operations.learned import Learned, told
from gateway.operations.progress import QUIET_S, Progress
from protocol.iso8583.dialect import dialect_of, load_dialect, shipped_dialects
from protocol.iso8583.message import Message
from protocol.masking import contains_pan

PAN = "6212345678900000003"
TPDU, HEADER = bytes.fromhex("6000030000"), bytes.fromhex("603100310100")
FIELDS = {
    2: PAN,
    3: "000000",
    4: "000000012345",
    11: "000042",
    22: "021",
    35: PAN + "=30122010000012300",
    41: "10000001",
    42: "100000000000001",
    49: "156",
    60: "22000001",
}
SALE = Message("0200", FIELDS, TPDU, HEADER)
SIGN_ON = Message("0800", {11: "000001", 41: "10000001", 42: "100000000000001", 60: "00000001003"}, TPDU, HEADER)


def holdfast(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["dialect", *map(str, arguments)])


def made(own: str, base: str = "unionpay") -> Any:
    """The dialect that the terminals of a test really speak."""
    return dialect_of("own", tomllib.loads(f'name = "own"\nextends = "{base}"\n{own}'))


def frames(own: str, *messages: Message) -> list[str]:
    codec = made(own).codec
    return [codec.encode(message).hex() for message in messages]


def with_fields(fields: dict[int, str], message: Message = SALE) -> Message:
    return replace(message, fields={**message.fields, **fields})


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return tmp_path / "capture.txt"


def learned(capture: Path, lines: Iterable[str], dialect: object = "unionpay") -> Any:
    capture.write_text("\n".join(lines), encoding="utf-8")
    result = holdfast("learn", capture, "--dialect", dialect, "--json")
    assert result.exit_code == 0, result.output
    text = told(msgspec.json.decode(result.stdout, type=Learned))
    for output in (result.output, text):
        assert not contains_pan(output, inside_runs=True)
        assert PAN not in output
    found = json.loads(result.stdout)
    if found["toml"]:
        assert found["toml"] in text
    return found


def suggested(found: Any) -> Any:
    """The dialect that the suggestions make, loaded as a person would."""
    return dialect_of("suggested", tomllib.loads(found["toml"]))


# --- list, show, check ---------------------------------------------------------------------------------------------


def test_every_shipped_dialect_is_listed_and_shown_with_every_field() -> None:
    rows = json.loads(holdfast("list", "--json").stdout)
    assert [row["name"] for row in rows] == list(shipped_dialects())
    text = holdfast("list").stdout
    for name in shipped_dialects():
        assert name in text
        dialect = load_dialect(name)
        shown = json.loads(holdfast("show", name, "--json").stdout)
        assert [one["field"] for one in shown["fields"]] == list(dialect.fields)
        table = holdfast("show", name).stdout
        assert all(spec.name in table for spec in dialect.fields.values())


def test_what_is_sensitive_and_how_it_is_packed_is_shown() -> None:
    fields = {one["field"]: one for one in json.loads(holdfast("show", "unionpay", "--json").stdout)["fields"]}
    assert [number for number, one in fields.items() if one["sensitive"]] == [35, 36, 52, 53, 55]
    assert fields[2]["wire"] == "bcd, length bcd, counts digits, pad 0 right"
    assert (fields[2]["length"], fields[2]["max"]) == ("LL", 19)


def test_a_dialect_that_is_not_there_is_wrong_usage() -> None:
    for arguments in (("show", "visa"), ("check", "nowhere.toml"), ("learn", "x.txt", "--dialect", "visa")):
        result = holdfast(*arguments)
        assert result.exit_code == 2
        assert len(result.output.splitlines()) == 1


def test_check_tells_every_mistake_at_once_and_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'name = "own"\nextends = "unionpay"\nmti = "ebcdic"\n[fields]\n2 = 3\n[host]\nx = 1', encoding="utf-8"
    )
    result = holdfast("check", file)
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert all(str(file) in line for line in lines)
    for key in ("mti", "fields.2", "host.x"):
        assert any(f": {key} " in line for line in lines), key
    as_json = holdfast("check", file, "--json")
    assert as_json.exit_code == 2
    shown = json.loads(as_json.stdout)
    assert (shown["right"], len(shown["mistakes"])) == (False, len(lines))


def test_check_gives_a_right_file_one_line_whatever_it_is_called(tmp_path: Path) -> None:
    file = tmp_path / "own"
    file.write_text('name = "own"\nextends = "unionpay"', encoding="utf-8")
    result = holdfast("check", file)
    assert (result.exit_code, len(result.output.splitlines())) == (0, 1)
    assert "dialect own, extends unionpay, 36 fields" in result.output
    assert json.loads(holdfast("check", file, "--json").stdout) == {"right": True, "mistakes": [], "remarks": []}


def test_check_remarks_on_rules_that_read_fields_which_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[fields]\n3 = { type = "n", length = 6 }', encoding="utf-8")
    remarks = json.loads(holdfast("check", file, "--json").stdout)["remarks"]
    for word in (
        "fields.11",
        "fields.41",
        "terminal.date_field",
        "field 90",
        "match_fields",
        "echo_fields",
        "fields.39",
    ):
        assert any(word in remark for remark in remarks), word


# --- learn: reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_dialects())
def test_frames_that_fit_are_said_to_fit_in_every_way_of_writing_them(name: str, capture: Path) -> None:
    dialect = load_dialect(name)
    front = (TPDU, HEADER) if dialect.tpdu else (b"", b"")
    raw = dialect.codec.encode(Message("0800", {11: "000001", 41: "10000001"}, *front))
    wrapped = dialect.framing.wrap(raw)
    lines = [
        "# a comment", "", "   ", raw.hex(), raw.hex(" ").upper(), f"> {raw.hex()}", f"<{raw.hex()}",
        f">> {wrapped.hex()}",
        f"-> {wrapped.hex()} # sign-on", f"<-{wrapped.hex(' ')}",
        f"TX: {raw.hex()}", f"rx {raw.hex()}\r", f"\t{raw.hex()}\t",
    ]  # fmt: skip
    found = learned(capture, lines, name)
    assert (found["frames"], found["fit"], found["bad_lines"], found["misfits"]) == (10, 10, [], [])
    assert (found["suggestions"], found["toml"]) == ([], "")
    assert found["message_types"] == [
        {"mti": "0800", "count": 10, "fields": [{"field": 11, "count": 10}, {"field": 41, "count": 10}]}
    ]


def test_bad_lines_are_told_with_their_number_and_skipped(capture: Path) -> None:
    (frame,) = frames("", SALE)
    found = learned(capture, [frame, "zz" + PAN, "123", ">", "# " + PAN, frame])
    assert found["frames"] == found["fit"] == 2
    assert [bad["line"] for bad in found["bad_lines"]] == [2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"zz\n", b"\x00\xff\xfe", b"0" * 600_000])
def test_a_capture_without_a_frame_fails_in_one_line(content: bytes, capture: Path) -> None:
    capture.write_bytes(content)
    result = holdfast("learn", capture)
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
    assert holdfast("learn", capture.parent / "none.txt").exit_code == 1


def test_anything_may_stand_in_a_capture(capture: Path) -> None:
    rng = random.Random(8583)
    lines = [rng.randbytes(rng.randint(1, 80)).hex() for _ in range(200)]
    lines += [line[: rng.randint(0, len(line))] for line in frames("", SALE, SIGN_ON) * 20]
    found = learned(capture, lines)
    assert found["frames"] + len(found["bad_lines"]) <= len(lines)
    assert found["fit"] <= found["fit_with_suggestions"]


# --- learn: what does not fit --------------------------------------------------------------------------------------


def test_an_over_long_field_is_told_and_its_most_raised_to_what_was_seen(capture: Path) -> None:
    lines = frames("[fields]\n60 = { max = 90 }", *(with_fields({60: "22000001" + "0" * n}) for n in (3, 40, 49, 40)))
    found = learned(capture, lines)
    (misfit,) = found["misfits"]
    assert (misfit["field"], misfit["reason"], misfit["count"], misfit["line"]) == (
        60,
        "length is over the most, 40",
        3,
        2,
    )
    assert (misfit["seen_min"], misfit["seen_max"]) == (48, 57)
    assert (found["fit"], found["fit_with_suggestions"]) == (1, 4)
    assert suggested(found).fields[60] == replace(load_dialect("unionpay").fields[60], length=57)
    (length,) = [one for one in found["lengths"] if one["field"] == 60]
    assert (length["seen_min"], length["seen_max"], length["allowed"]) == (11, 57, 40)


@pytest.mark.parametrize("pad", ['pad = "left"', 'pad_nibble = "f"', 'pad = "left", pad_nibble = "f"'])
def test_a_wrong_pad_is_told_and_found(pad: str, capture: Path) -> None:
    own = f"[fields]\n22 = {{ {pad} }}"
    found = learned(capture, [*frames("", SIGN_ON), *frames(own, SALE, SALE)])
    assert [(one["field"], one["count"], one["line"]) for one in found["misfits"]] == [(22, 2, 2)]
    assert suggested(found).fields[22] == made(own).fields[22]
    assert found["fit_with_suggestions"] == 3


def test_faults_behind_one_another_are_all_found(capture: Path) -> None:
    own = 'header_bytes = 8\n[fields]\n22 = { pad = "left" }\n60 = { max = 90 }\n62 = { length_encoding = "binary" }'
    message = replace(with_fields({60: "22000001" + "0" * 52, 62: "ab" * 20}), header=bytes(8))
    found = learned(capture, frames(own, *[message] * 12))
    assert (found["fit"], found["fit_with_suggestions"]) == (0, 12)
    assert {one["key"] for one in found["suggestions"]} == {"header_bytes", "fields.22", "fields.60", "fields.62"}
    assert [one["behind"] for one in found["misfits"]] == sorted(one["behind"] for one in found["misfits"])
    codec = suggested(found).codec
    assert codec.decode(codec.encode(message)) == message


@pytest.mark.parametrize("form", ["ascii-4", "bcd-2"])
def test_a_length_in_front_of_another_form_is_told_and_found(form: str, capture: Path) -> None:
    framing = made(f'[framing]\nlength = "{form}"').framing
    lines = [framing.wrap(bytes.fromhex(frame)).hex() for frame in frames("", SALE, SIGN_ON)]
    found = learned(capture, lines)
    assert found["misfits"][0]["reason"] == f"the length in front is {form}, not binary-2"
    assert (found["fit"], found["fit_with_suggestions"]) == (0, 2)
    assert suggested(found).framing.length == form


def test_a_field_that_the_dialect_lacks_is_told_with_its_types_and_any_format_for_it_is_called_a_guess(
    capture: Path,
) -> None:
    own = '[fields]\n24 = { type = "n", length = 3 }\n'
    own += '57 = { type = "ans", length = "LLL", max = 99, encoding = "binary" }'
    lines = frames(
        own, SIGN_ON, with_fields({24: "001"}), with_fields({57: "b3c9b9a6"}), with_fields({57: "00"}, SIGN_ON)
    )
    found = learned(capture, lines)
    assert found["lacking"] == [
        {"field": 24, "count": 1, "line": 2, "mtis": ["0200"]},
        {"field": 57, "count": 2, "line": 3, "mtis": ["0200", "0800"]},
    ]
    assert all(one["guess"] for one in found["suggestions"])
    assert found["fit_with_suggestions"] == 4


def test_what_cannot_be_inferred_is_told_without_a_suggestion(capture: Path) -> None:
    found = learned(capture, [*frames("", SALE), frames("", SIGN_ON)[0] + "0d0a0d", frames("", SALE)[0] + "03"])
    assert [(one["reason"], one["seen_min"], one["seen_max"]) for one in found["misfits"]] == [
        ("bytes behind the last field", 1, 3)
    ]
    assert (found["suggestions"], found["fit_with_suggestions"]) == ([], 1)


def test_a_suggestion_never_costs_a_frame_that_fitted(capture: Path) -> None:
    # Two makes in one capture: whichever pad is chosen for field 22, the other's frames would be refused.
    lines = [*frames("", *[SALE] * 3), *frames('[fields]\n22 = { pad = "left", pad_nibble = "f" }', *[SALE] * 30)]
    found = learned(capture, lines)
    assert (found["fit"], found["fit_with_suggestions"], found["suggestions"]) == (3, 3, [])


def test_a_dialect_that_fits_better_is_named(capture: Path) -> None:
    codec = load_dialect("iso87-binary").codec
    lines = [codec.encode(Message("0200", FIELDS)).hex()] * 5 + frames("", SALE)
    found = learned(capture, lines)
    assert {one["dialect"]: one["frames"] for one in found["dialects"]} == {
        "unionpay": 1, "iso87-ascii": 0, "iso87-binary": 5,
    }  # fmt: skip
    assert "iso87-binary fits better" in holdfast("learn", capture).output


def test_a_file_of_ones_own_is_told_only_the_lines_to_change(capture: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    text = 'name = "own"\nextends = "unionpay"\n[fields]\n60 = { name = "Batch", max = 41 }\n'
    file.write_text(text, encoding="utf-8")
    found = learned(capture, frames("[fields]\n60 = { max = 90 }", with_fields({60: "1" * 50})), file)
    assert found["toml"] == '[fields]\n60 = { name = "Batch", max = 50 }'
    file.write_text(text.partition("[fields]")[0] + found["toml"], encoding="utf-8")
    again = learned(capture, capture.read_text("utf-8").splitlines(), file)
    assert (again["fit"], again["misfits"]) == (1, [])


def test_a_rare_departure_in_a_long_capture_is_counted_and_found(capture: Path) -> None:
    own = "[fields]\n60 = { max = 90 }"
    odd = frames(own, with_fields({60: "1" * 55}))
    lines = frames("", SALE) * 400 + odd + frames("", SIGN_ON) * 600
    found = learned(capture, lines)
    assert [(one["count"], one["line"]) for one in found["misfits"]] == [(1, 401)]
    assert (found["fit"], found["fit_with_suggestions"]) == (1000, 1001)


# --- progress ------------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_silent_for_two_seconds_then_one_line_that_goes_away() -> None:
    now = [0.0]
    screen, pipe = Screen(), io.StringIO()
    with Progress(screen, lambda: now[0]) as progress, Progress(pipe, lambda: now[0]) as unseen:
        progress.tell("decoding", 0.1)
        now[0] = QUIET_S - 0.01
        progress.tell("decoding", 0.4)
        assert screen.getvalue() == ""
        now[0] = QUIET_S + 0.01
        for one in (progress, unseen):
            one.tell("decoding", 0.5)
            one.tell("decoding", 0.6)  # too soon after the last
        assert screen.getvalue() == "\rdecoding  50%"
    assert screen.getvalue().endswith("\r" + " " * len("decoding  50%") + "\r")
    assert pipe.getvalue() == ""
