"""A field that covers another takes every value of it."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from protocol.iso8583.covering import always_fitting, covers
from protocol.iso8583.dialect import Dialect, load_dialect, shipped_dialects
from protocol.iso8583.fields import FieldError, FieldSpec, field_writer
from protocol.iso8583.message import Message
from tests.protocol.generated import some_value, user_made_dialects


@cache
def every_spec() -> tuple[FieldSpec, ...]:
    with TemporaryDirectory() as folder:
        dialects = [load_dialect(str(path)) for path in user_made_dialects(Path(folder))]
    dialects += map(load_dialect, shipped_dialects())
    return tuple({spec: None for dialect in dialects for spec in dialect.fields.values()})


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_covered_field_holds_is_written(seed: int) -> None:
    rng = random.Random(f"covers/{seed}")
    covered = 0
    for _ in range(4_000):
        target, source = rng.choices(every_spec(), k=2)
        if covers(target, source):
            covered += 1
            write = field_writer(target)
            for _ in range(4):
                value = some_value(source, rng)
                try:
                    write(value)
                except FieldError as error:
                    pytest.fail(f"{source} is not covered by {target}: {error}")
    assert covered > 100


def pair_ids(pair: tuple[str, str]) -> str:
    return " to ".join(pair)


PAIRS = [(one, other) for one in shipped_dialects() for other in shipped_dialects()]


@pytest.mark.parametrize("pair", PAIRS, ids=pair_ids)
def test_a_message_of_always_fitting_fields_is_always_encoded(pair: tuple[str, str]) -> None:
    source, target = map(load_dialect, pair)
    numbers = sorted(always_fitting(source, target))
    rng = random.Random(f"fits/{pair}")
    for _ in range(300):
        chosen = rng.sample(numbers, rng.randint(1, len(numbers)))
        fields = {number: some_value(source.fields[number], rng) for number in sorted(chosen)}
        target.codec.encode(Message("0220", target.carried(fields), *front(target)))


def test_a_unionpay_sale_fits_the_other_shipped_hosts() -> None:
    sale = {2, 3, 4, 11, 12, 13, 14, 22, 25, 41, 42, 49, 60}
    terminals = load_dialect("unionpay")
    assert {name: sorted(sale - always_fitting(terminals, load_dialect(name))) for name in shipped_dialects()} == {
        name: [] for name in shipped_dialects()
    }


def front(dialect: Dialect) -> tuple[bytes, bytes]:
    return bytes(5 if dialect.tpdu else 0), bytes(dialect.header_bytes)
