"""Safeguards of the process: its logs and its private files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gateway import private_file
from gateway.new_file import new_file
from gateway.operations import decoding, installing, logs, token, writing
from tests.safeguards.kinds import Safeguard
from tests.safeguards.switches import UNLIMITED, altered, always, replaced, wrapped


def _unbounded_lines() -> None:
    def around(make: Callable[..., None]) -> object:
        def made(self: object, *values: object, **_: object) -> None:
            make(self, *values, lines_max=UNLIMITED, bytes_max=UNLIMITED)

        return made

    wrapped(writing.LineWriter, "__init__", around)()


_O: Final = "tests/operations/"

FILES_AND_LOGS: Final = (
    Safeguard(
        "card numbers are masked in the log",
        "INV-8",
        replaced(logs, "mask_values", lambda _log, _method, line: line),
        f"{_O}test_logs.py::test_no_value_shows_a_card_number_however_it_is_wrapped",
    ),
    Safeguard(
        "a line that repeats is held back",
        "INV-9",
        replaced(logs.RepeatLimit, "passes", always(0)),
        f"{_O}test_logs.py::test_an_event_that_repeats_is_held_back_and_counted_and_others_are_not",
    ),
    Safeguard(
        "lines that wait are bounded",
        "INV-9",
        _unbounded_lines,
        f"{_O}test_logs.py::test_lines_without_end_take_bounded_memory",
    ),
    Safeguard(
        "a decoded message hides its card",
        "INV-8",
        replaced(decoding, "masked_fields", lambda fields, *_: fields),
        f"{_O}test_decoding.py::test_json_has_every_field_by_its_number_and_hides_the_card",
    ),
    Safeguard(
        "new private files are their owner's",
        "INV-8",
        replaced(installing, "new_file", partial(new_file, mode=0o666)),
        f"{_O}test_installing.py::test_everything_is_readable_by_its_owner_only_whatever_the_umask",
    ),
    Safeguard(
        "a token that others may read is refused",
        "INV-8",
        altered(token, "stat", S_IMODE=always(0o600)),
        f"{_O}test_installing.py::test_a_token_that_is_weak_or_open_to_others_is_refused",
    ),
    Safeguard(
        "a master key that others may read is refused",
        "INV-8",
        altered(private_file, "stat", S_IMODE=always(0o600)),
        "tests/acquirers/test_host_key.py::test_a_file_that_others_may_use_is_refused",
    ),
)
