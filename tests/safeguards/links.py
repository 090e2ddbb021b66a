"""Safeguards of the links to acquirers."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final

from gateway.acquirers import bounded_json, iso8583, session
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.matching import Matching
from gateway.acquirers.settings import LinkSettings
from gateway.acquirers.silence import Turns
from gateway.tls.contexts import ReloadableClientContext
from tests.safeguards.kinds import Safeguard
from tests.safeguards.switches import UNLIMITED, Switch, always, nothing, replaced, unlimited, wrapped


def _key_without_type(self: Any, _: str, fields: Any) -> tuple[str, ...]:
    return tuple(fields.get(number, "") for number in self._match_fields)


def _key_of_the_type_alone(self: Any, answer_mti: str, _: object) -> tuple[str, ...]:
    return (answer_mti,)


def _unbounded_memory() -> None:
    def around(make: Callable[..., None]) -> object:
        def made(self: object, rules: object, **named: object) -> None:
            make(self, rules, **{**named, "abandoned_max": UNLIMITED})

        return made

    wrapped(Matching, "__init__", around)()


def _late_answers_given_again() -> None:
    """The answer of an abandoned send is not remembered as given out."""

    def around(answered: Callable[..., Any]) -> object:
        def given(self: Any, key: Any, now_ms: int) -> Any:
            earlier = self._abandoned.get(key)
            token = earlier.token if earlier is not None else None
            found = answered(self, key, now_ms)
            if earlier is not None and token is not None:
                earlier.token = token
            return found

        return given

    wrapped(Matching, "answered", around)()


def _unverified_host() -> None:
    """A host is whoever answers."""

    def around(made: Callable[..., ssl.SSLContext]) -> object:
        def context(self: object) -> ssl.SSLContext:
            whole = made(self)
            whole.check_hostname = False
            whole.verify_mode = ssl.CERT_NONE
            return whole

        return context

    wrapped(ReloadableClientContext, "_made", around)()


def _any_name() -> None:
    """A host is whoever has a certificate of the CA."""

    def around(made: Callable[..., ssl.SSLContext]) -> object:
        def context(self: object) -> ssl.SSLContext:
            whole = made(self)
            whole.check_hostname = False
            return whole

        return context

    wrapped(ReloadableClientContext, "_made", around)()


def _refused_at_once(refuse: Callable[..., None]) -> object:
    def refused(self: Any, *values: Any) -> None:
        refuse(self, *values)
        self._deliver_refusals()

    return refused


def _link(setting: str, bound: int = UNLIMITED) -> Switch:
    return unlimited(LinkSettings, **{setting: bound})


def _first(_: object, silent: list[Any]) -> object:
    return next(iter(silent), None)


_A: Final = "tests/acquirers/"
_SUITE: Final = f"{_A}test_iso8583.py::TestIso8583LinkConforms::"
_HTTP_SUITE: Final = f"{_A}test_http.py::TestHttpLinkConforms::"
_MORE: Final = f"{_A}test_iso8583.py::TestIso8583LinkWithTpdu::"
_MATCHING: Final = f"{_A}test_matching.py::"
_MACS: Final = f"{_A}test_session.py::TestMacs::"
_FAULTS: Final = f"{_A}test_http_faults.py::"
_GAPS: Final = "tests/safeguards/test_gaps_in_links.py::"

LINKS: Final = (
    Safeguard(
        "an answer is matched by its trace number",
        "D6",
        replaced(Matching, "key", _key_of_the_type_alone),
        f"{_SUITE}test_answers_are_matched_by_key_and_not_by_order",
        waits=True,
    ),
    Safeguard(
        "an answer is matched by its type",
        "D6",
        replaced(Matching, "key", _key_without_type),
        f"{_SUITE}test_a_reversal_and_its_original_of_the_same_stan_are_told_apart",
        waits=True,
    ),
    Safeguard(
        "a late answer's key is closed to another amount or card",
        "D16",
        replaced(Matching, "_same", staticmethod(always(value=True))),
        f"{_MATCHING}test_no_answer_is_ever_given_to_another_transaction",
    ),
    Safeguard(
        "a send without an answer is remembered",
        "D16",
        replaced(Matching, "_remember", nothing),
        f"{_SUITE}test_no_answer_is_in_doubt_and_a_late_answer_is_told_once",
        waits=True,
    ),
    Safeguard(
        "a late answer is given out once",
        "D16",
        _late_answers_given_again,
        f"{_SUITE}test_no_answer_is_in_doubt_and_a_late_answer_is_told_once",
        waits=True,
    ),
    Safeguard(
        "the memory of late answers is bounded",
        "INV-9",
        _unbounded_memory,
        f"{_MATCHING}test_over_the_limit_the_oldest_abandoned_key_is_forgotten_and_counted",
    ),
    Safeguard(
        "a key is in flight once",
        "D6",
        replaced(Matching, "refusal", always("")),
        f"{_MATCHING}test_a_key_cannot_be_in_flight_twice",
    ),
    Safeguard(
        "an answer's MAC is checked",
        "D10",
        replaced(session.Session, "check", always(session.MacCheck.RIGHT)),
        f"{_MACS}test_an_answer_with_a_wrong_mac_or_none_is_not_verified",
    ),
    Safeguard(
        "a line on which nothing is heard is made anew",
        "D6",
        _link("unheard_max"),
        f"{_GAPS}test_a_line_on_which_nothing_is_heard_is_made_anew",
        waits=True,
    ),
    Safeguard(
        "an HTTP endpoint that is silent is passed over",
        "D6",
        unlimited(HttpLinkSettings, unheard_max=UNLIMITED),
        f"{_HTTP_SUITE}test_an_endpoint_that_is_silent_is_passed_over_until_it_answers_again",
        waits=True,
    ),
    Safeguard(
        "endpoints that are all silent are asked in turn",
        "D6",
        replaced(Turns, "next", _first),
        f"{_SUITE}test_of_endpoints_that_are_all_silent_each_has_its_turn",
        waits=True,
    ),
    Safeguard(
        "a frame of the host must be complete in time",
        "INV-9",
        _link("frame_timeout_ms"),
        f"{_MORE}test_a_frame_that_the_host_never_completes_ends_the_connection",
        waits=True,
    ),
    Safeguard(
        "a link has so much in flight",
        "INV-9",
        _link("in_flight_max"),
        f"{_SUITE}test_over_the_limit_in_flight_a_send_spills_over_and_then_is_not_sent",
        waits=True,
    ),
    Safeguard(
        "a host that does not read is not written to without end",
        "INV-9",
        _link("write_buffer_high_bytes", 1 << 30),
        f"{_SUITE}test_a_host_that_does_not_read_is_not_written_to_without_end",
        waits=True,
    ),
    Safeguard(
        "so many echo tests of the host are answered",
        "INV-9",
        _link("echo_answered_per_s_max"),
        f"{_MORE}test_an_echo_test_of_the_host_is_answered_and_a_storm_of_them_is_not",
        waits=True,
    ),
    Safeguard(
        "a host proves who it is",
        "INV-8",
        _unverified_host,
        f"{_A}test_tls.py::test_a_host_that_cannot_prove_who_it_is_gets_nothing",
        waits=True,
    ),
    Safeguard(
        "a host has the name that is called",
        "INV-8",
        _any_name,
        f"{_A}test_tls.py::test_a_host_that_cannot_prove_who_it_is_gets_nothing",
        waits=True,
    ),
    Safeguard(
        "an HTTP answer has a largest size",
        "INV-9",
        unlimited(HttpLinkSettings, body_max_bytes=1 << 30),
        f"{_FAULTS}test_a_reply_that_proves_nothing_is_in_doubt_at_once_and_nothing_is_sent_again",
        waits=True,
    ),
    Safeguard(
        "an HTTP answer is nested so deep",
        "INV-9",
        replaced(bounded_json, "DEPTH_MAX", UNLIMITED),
        f"{_FAULTS}test_a_reply_that_proves_nothing_is_in_doubt_at_once_and_nothing_is_sent_again",
        waits=True,
    ),
    Safeguard(
        "a link is told of no send from within it",
        "D6",
        wrapped(iso8583.Iso8583Link, "_refuse", _refused_at_once),
        f"{_SUITE}test_a_second_send_of_a_key_in_flight_is_not_sent",
    ),
)
