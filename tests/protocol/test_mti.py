"""Message types: what answers what, and what repeats what."""

from __future__ import annotations

import pytest

from protocol.iso8583.mti import (
    MessageClass,
    MessageFunction,
    answer_mti,
    first_mti,
    is_advice,
    is_answer,
    is_repeat,
    message_class,
    message_function,
    repeat_mti,
)


@pytest.mark.parametrize(
    ("mti", "answer"),
    [
        ("0100", "0110"), ("0200", "0210"), ("0201", "0210"), ("0220", "0230"), ("0221", "0230"),
        ("0320", "0330"), ("0400", "0410"), ("0401", "0410"), ("0420", "0430"), ("0421", "0430"),
        ("0500", "0510"), ("0800", "0810"), ("0820", "0830"), ("0202", "0212"), ("0203", "0212"), ("0205", "0214"),
        ("1240", "1250"), ("1804", "1814"),
    ],
)  # fmt: skip
def test_a_first_send_and_its_repeat_have_the_same_answer(mti: str, answer: str) -> None:
    assert answer_mti(mti) == answer
    assert is_answer(answer)
    assert not is_answer(mti)


@pytest.mark.parametrize(
    ("first", "repeat"),
    [("0100", "0101"), ("0200", "0201"), ("0220", "0221"), ("0400", "0401"), ("0420", "0421"), ("0202", "0203")],
)
def test_a_repeat_differs_from_its_first_send_in_the_last_digit(first: str, repeat: str) -> None:
    assert repeat_mti(first) == repeat_mti(repeat) == repeat
    assert first_mti(repeat) == first_mti(first) == first
    assert is_repeat(repeat)
    assert not is_repeat(first)


@pytest.mark.parametrize("mti", ["0210", "0230", "0430", "0250"])
def test_an_answer_is_neither_answered_nor_repeated(mti: str) -> None:
    for derive in (answer_mti, repeat_mti):
        with pytest.raises(ValueError, match="answer"):
            derive(mti)


@pytest.mark.parametrize("mti", ["", "020", "02000", "02a0", "02\u0660\u0660", "\u00b2200", "    "])
def test_what_is_not_four_digits_is_no_message_type(mti: str) -> None:
    for function in (answer_mti, repeat_mti, first_mti, is_repeat, is_answer, is_advice, message_class):
        with pytest.raises(ValueError, match="four digits"):
            function(mti)


@pytest.mark.parametrize("mti", ["0206", "0209"])
def test_a_reserved_origin_is_refused(mti: str) -> None:
    for function in (answer_mti, repeat_mti, first_mti):
        with pytest.raises(ValueError, match="origin"):
            function(mti)


def test_class_and_function_are_told() -> None:
    assert message_class("0200") is MessageClass.FINANCIAL
    assert message_class("0421") is MessageClass.REVERSAL
    assert message_function("0421") is MessageFunction.ADVICE
    assert message_function("0810") is MessageFunction.REQUEST_ANSWER
    assert is_advice("0220")
    assert not is_advice("0230")
    with pytest.raises(ValueError, match="not a valid"):
        message_class("0900")
    with pytest.raises(ValueError, match="not a valid"):
        message_function("0290")
