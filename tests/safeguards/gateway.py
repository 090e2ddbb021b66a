"""Safeguards in which the core works with the rooms around it: second keys, and an acquirer without room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core import requests
from gateway.core.engine import Engine
from gateway.journal.batch import Batcher
from tests.safeguards.kinds import Safeguard
from tests.safeguards.switches import always, replaced, wrapped


def _second_keys_unseen() -> None:
    """The journal writes second keys, and does not look whether they are there already."""

    def around(existing: Callable[..., int | None]) -> object:
        def found(self: Batcher, draft: object, key: str, horizon_ms: int) -> int | None:
            return None if key.startswith("idem|") else existing(self, draft, key, horizon_ms)

        return found

    wrapped(Batcher, "_existing", around)()


def _want_of_room_is_an_outage() -> None:
    """Nobody is refused because the acquirer has as much as it may have: neither at the door nor in the core."""
    replaced(Engine, "overruns", always(value=False))()
    replaced(requests.Requests, "_too_many", always(value=False))()


_GAPS: Final = "tests/safeguards/test_gaps_in_gateway.py::"
_ONE_CHARGE: Final = f"{_GAPS}test_a_retry_with_its_idempotency_key_is_never_a_second_charge"
_ROOM: Final = f"{_GAPS}test_what_an_acquirer_that_answers_has_no_room_for_is_refused_and_never_approved_without_it"

GATEWAY: Final = (
    Safeguard(
        "a sale over HTTP has its Idempotency-Key as a second key",
        "D1, INV-2",
        replaced(requests, "with_alias", lambda row, _: row),
        _ONE_CHARGE,
    ),
    Safeguard("a second key is looked for before a sale is new", "D1, INV-2", _second_keys_unseen, _ONE_CHARGE),
    Safeguard("want of room is no reason to stand in", "INV-9", _want_of_room_is_an_outage, _ROOM),
    Safeguard(
        "who finds no room with the acquirer is refused before anything is stored",
        "INV-9",
        replaced(Engine, "overruns", always(value=False)),
        _ROOM,
    ),
    Safeguard(
        "who was let in and finds no room is declined",
        "INV-9",
        replaced(requests.Requests, "_too_many", always(value=False)),
        "tests/core/test_overload.py::"
        "test_inv_9_what_finds_no_room_is_declined_where_the_acquirer_answers_and_stood_in_for_where_it_hangs",
    ),
)
