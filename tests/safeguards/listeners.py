"""Safeguards of the listeners: ISO 8583 and HTTP terminals, and operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.operations import routes, server
from gateway.terminals import http_mapping, http_signatures, iso8583, sessions
from gateway.terminals.http_admission import Rates
from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.limits import Count, ListenerSettings
from protocol.framing import FrameReader
from protocol.mac import MacKey
from tests.safeguards.kinds import Safeguard
from tests.safeguards.switches import UNLIMITED, Switch, altered, always, nothing, replaced, unlimited, wrapped


def _unlimited_frames() -> None:
    """A reader takes frames of whatever length the prefix says."""

    def around(make: Callable[..., None]) -> object:
        def made(self: Any, framing: Any) -> None:
            make(self, framing)
            self._limit = UNLIMITED

        return made

    wrapped(FrameReader, "__init__", around)()


def _told_before_the_mac() -> None:
    """A gateway that stops says so before it has looked at the MAC."""

    def around(take: Callable[..., None]) -> object:
        def taken(self: Any, connection: Any, frame: bytes) -> None:
            if self._admitting:
                take(self, connection, frame)
                return
            self.count(Count.STOPPING)
            self._refuse(connection, self._codec.decode(frame), "96")

        return taken

    wrapped(iso8583.Iso8583Listener, "take", around)()


def _mac_may_be_missing() -> None:
    def around(admit: Callable[..., Any]) -> object:
        def admitted(self: Any, *values: Any) -> Any:
            judged = admit(self, *values)
            missing = isinstance(judged, sessions.Refused) and judged.count is Count.MAC_MISSING
            return sessions.Admitted() if missing else judged

        return admitted

    wrapped(sessions.TerminalSessions, "admit", around)()


def _said_why() -> None:
    def around(whole: Callable[[str], Any]) -> object:
        def refused(reason: str) -> Any:
            return http_signatures.SignatureRefused(whole(reason).kind, reason, reason)

        return refused

    wrapped(http_signatures, "_refused", around)()


def _with_arguments(target: type, **named: object) -> Switch:
    """An object that is made with other arguments."""

    def around(make: Callable[..., None]) -> object:
        def made(self: object, *values: object, **given: object) -> None:
            make(self, *values, **{**given, **named})

        return made

    return wrapped(target, "__init__", around)


_T: Final = "tests/terminals/"
_LIMITS: Final = f"{_T}test_limits.py::"
_HTTP: Final = f"{_T}test_http_limits.py::"
_SIGNED: Final = f"{_T}test_http_signatures.py::"
_SESSIONS: Final = f"{_T}test_sessions.py::"
_OPERATIONS: Final = "tests/operations/test_server.py::"


def _iso(name: str, setting: str, test: str, bound: int = UNLIMITED) -> Safeguard:
    """A limit of the ISO 8583 listener."""
    return Safeguard(name, "INV-9", unlimited(ListenerSettings, **{setting: bound}), f"{_LIMITS}{test}", waits=True)


def _web(name: str, setting: str, test: str, bound: int = UNLIMITED) -> Safeguard:
    """A limit of the HTTP listener."""
    return Safeguard(name, "INV-9", unlimited(HttpListenerSettings, **{setting: bound}), f"{_HTTP}{test}", waits=True)


LISTENERS: Final = (
    _iso(
        "a listener has a most of connections",
        "connections_max",
        "test_a_connection_over_the_limit_is_closed_at_once",
    ),
    _iso(
        "an address has a most of connections",
        "connections_per_address_max",
        "test_a_connection_over_the_limit_is_closed_at_once",
    ),
    _iso(
        "what a listener has under way is bounded",
        "in_flight_max",
        "test_over_the_total_in_flight_the_answer_is_96_and_nothing_is_submitted",
    ),
    _iso(
        "who has too much under way is not read from",
        "in_flight_per_connection_high",
        "test_a_connection_with_too_much_in_flight_is_not_read_from_until_it_has_less",
    ),
    _iso(
        "who does not read its answers is closed",
        "write_buffer_limit_bytes",
        "test_a_terminal_that_does_not_read_is_closed_and_holds_no_memory",
        1 << 30,
    ),
    _iso("a frame must be complete in time", "frame_timeout_ms", "test_a_terminal_that_dribbles_is_hung_up_on"),
    _iso(
        "an idle connection is closed",
        "idle_timeout_ms",
        "test_an_idle_terminal_is_hung_up_on_but_not_one_that_waits_for_its_answer",
    ),
    _iso(
        "a flood of keep-alives is hung up on",
        "keepalives_per_s_max",
        "test_a_flood_of_keepalives_is_hung_up_on_after_the_good_requests_before_it_are_answered",
    ),
    _iso(
        "a connection takes so many frames a turn",
        "frames_per_turn_max",
        "test_others_get_their_turn_while_one_connections_frames_are_taken",
    ),
    _iso(
        "a connection takes so many frames a second",
        "frames_per_s_max",
        "test_a_connection_that_sends_more_than_a_second_may_bring_waits_and_others_do_not",
    ),
    _iso(
        "what is never answered gives its place back",
        "reply_timeout_ms",
        "test_a_request_that_the_core_never_answers_gives_its_place_back",
    ),
    Safeguard(
        "a frame has a longest length",
        "INV-9",
        _unlimited_frames,
        "tests/protocol/test_framing.py::test_the_limit_itself_passes_and_one_more_does_not",
    ),
    Safeguard(
        "a wrong MAC of a terminal is refused",
        "D10",
        replaced(MacKey, "verify", always(value=True)),
        f"{_SESSIONS}test_a_message_without_a_mac_or_with_a_wrong_one_is_answered_a0",
        waits=True,
    ),
    Safeguard(
        "a missing MAC of a terminal is refused",
        "D10",
        _mac_may_be_missing,
        f"{_SESSIONS}test_a_message_without_a_mac_or_with_a_wrong_one_is_answered_a0",
        waits=True,
    ),
    Safeguard(
        "the MAC is judged before anything else is told",
        "D10",
        _told_before_the_mac,
        f"{_SESSIONS}test_a_message_is_refused_a0_before_overload_or_stopping_is_told",
    ),
    Safeguard(
        "a certificate speaks for its own terminals",
        "D1",
        replaced(iso8583.Iso8583Listener, "_permitted", always(value=True)),
        f"{_T}test_tls.py::test_a_message_of_another_terminal_is_answered_58_and_stored_nowhere",
    ),
    _web(
        "an HTTP listener has a most of connections",
        "connections_max",
        "test_a_connection_over_the_limit_is_closed_at_once",
    ),
    _web("an HTTP head must be complete in time", "head_timeout_ms", "test_a_head_that_does_not_end_is_cut_off"),
    _web(
        "an HTTP body must be complete in time",
        "body_timeout_ms",
        "test_a_body_that_does_not_end_is_408_and_hung_up_on",
    ),
    _web(
        "an HTTP body has a largest size",
        "body_bytes_max",
        "test_a_body_that_is_too_large_is_413_before_it_is_read",
        1 << 31,
    ),
    Safeguard(
        "an HTTP head has so many lines",
        "INV-9",
        unlimited(HttpListenerSettings, headers_max=1 << 20),
        "tests/safeguards/test_gaps_in_listeners.py::"
        "test_a_head_of_more_lines_than_are_taken_is_refused_for_their_number_alone",
    ),
    _web(
        "an HTTP till that does not read is cut off",
        "write_timeout_ms",
        "test_a_till_that_does_not_take_its_answers_is_cut_off",
    ),
    _web(
        "an HTTP terminal has its share of what is under way",
        "in_flight_per_terminal_max",
        "test_what_is_under_way_is_bounded_for_each_terminal_and_in_all",
    ),
    Safeguard(
        "an HTTP terminal has a rate",
        "INV-9",
        replaced(Rates, "spend", always(0)),
        f"{_HTTP}test_a_terminal_that_sends_too_fast_is_429_and_another_one_is_not",
    ),
    Safeguard(
        "a wrong signature is refused",
        "D10",
        altered(http_signatures, "hmac", compare_digest=always(value=True)),
        f"{_SIGNED}test_whatever_is_changed_on_the_way_is_refused_without_saying_why",
    ),
    Safeguard(
        "a refused signature is not told why",
        "D10",
        _said_why,
        f"{_SIGNED}test_whatever_is_changed_on_the_way_is_refused_without_saying_why",
    ),
    Safeguard(
        "a signature counts for a time",
        "D10",
        unlimited(HttpListenerSettings, signature_window_ms=UNLIMITED),
        f"{_SIGNED}test_a_time_outside_the_window_is_refused_and_within_it_taken",
    ),
    Safeguard(
        "a signed request counts once",
        "D10",
        replaced(http_signatures._Nonces, "use", nothing),
        f"{_SIGNED}test_a_signed_request_is_taken_and_its_retry_needs_a_new_nonce",
    ),
    Safeguard(
        "the nonces are bounded",
        "INV-9",
        unlimited(HttpListenerSettings, nonces_max=UNLIMITED, nonces_per_terminal_max=UNLIMITED),
        f"{_SIGNED}test_the_nonces_are_bounded_for_each_terminal_and_in_all",
    ),
    Safeguard(
        "a key made of a card number is not kept",
        "INV-8",
        replaced(http_mapping, "contains_pan", always(value=False)),
        f"{_T}test_http.py::test_an_idempotency_key_made_of_a_card_number_is_not_kept",
    ),
    Safeguard(
        "steering needs the token",
        "—",
        altered(routes, "hmac", compare_digest=always(value=True)),
        f"{_OPERATIONS}test_without_a_configured_token_nobody_can_steer",
    ),
    Safeguard(
        "operations have a most of connections",
        "INV-9",
        _with_arguments(server.OperationsServer, connections_max=UNLIMITED),
        f"{_OPERATIONS}test_a_connection_over_the_limit_is_closed_at_once_and_a_free_place_is_taken_again[False]",
    ),
    Safeguard(
        "an operations client must finish in time",
        "INV-9",
        _with_arguments(server.OperationsServer, request_timeout_s=1_000),
        f"{_OPERATIONS}test_a_client_that_does_not_finish_is_cut_off_while_others_are_served[False-silent]",
        waits=True,
    ),
)
