"""Signed requests: what is proved is taken, and a flipped bit, another time or a second use is not."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.http_signatures import SignatureCheck, SignatureRefused, Signed, authorization, signature
from protocol.http_api import ProblemKind
from protocol.iso8583.rules import TerminalRules
from tests.acquirers.waiting import on_each_loop
from tests.terminals.http_shop import SECRET, TERMINAL, UTC_MS, HttpShop, http_shop, sale

SECRETS = {TERMINAL: SECRET, "T0000002": bytes(reversed(SECRET))}
TRANSACTIONS = "/v1/transactions"
UTC_S = UTC_MS // 1000


@on_each_loop
async def test_a_signed_request_is_taken_and_its_retry_needs_a_new_nonce() -> None:
    async with http_shop(secrets=SECRETS) as shop:
        sold = await shop.signed("POST", TRANSACTIONS, sale(), key="once", nonce="nonce-of-mine")
        assert sold.body["state"] == "approved"
        told = await shop.signed("POST", TRANSACTIONS, sale(), key="once", nonce="nonce-of-mine")
        assert (told.status, told.problem) == (401, "nonce-reused")
        assert (await shop.signed("POST", TRANSACTIONS, sale(), key="once")).text == sold.text
        looked = await shop.signed("GET", f"{TRANSACTIONS}/{sold.body['id']}")
        assert looked.body == sold.body
        assert (await shop.signed("GET", f"{TRANSACTIONS}?terminal={TERMINAL}&limit=5")).status == 200
        assert shop.listener.gauges()["nonces"] == 4
        assert shop.core.sends == 1


def _flipped(header: str) -> str:
    end = header.rindex('"')
    return header[: end - 1] + ("0" if header[end - 1] != "0" else "1") + header[end:]


@pytest.mark.parametrize(
    "changed",
    [
        {"header": _flipped},
        {"header": lambda text: text.replace(TERMINAL, "T0000002")},
        {"header": lambda text: text.replace(TERMINAL, "NOBODY")},
        {"header": lambda text: text.replace(str(UTC_S), str(UTC_S + 1))},
        {"header": lambda text: text.replace("nonce-0", "nonce-9")},
        {"header": lambda text: text + ', extra="x"'},
        {"header": lambda text: text + f', terminal="{TERMINAL}"'},
        {"header": lambda text: text.replace('nonce="', 'nonce="!')},
        {"header": lambda text: text.replace("Holdfast-HMAC", "Bearer")},
        {"header": lambda _: "Holdfast-HMAC"},
        {"header": lambda _: "Holdfast-HMAC " + "a=b," * 400},
        {"secret": bytes(32)},
        {"signed_body": b"{}"},
        {"sent_key": "another key"},
        {"sent_path": TRANSACTIONS + "?x=1"},
    ],
)
@on_each_loop
async def test_whatever_is_changed_on_the_way_is_refused_without_saying_why(changed: dict[str, Any]) -> None:
    async with http_shop(secrets=SECRETS) as shop:
        told = await shop.signed("POST", TRANSACTIONS, sale(), **changed)
        assert (told.status, told.problem) == (401, "unauthenticated")
        assert told.headers["WWW-Authenticate"] == "Holdfast-HMAC"
        assert "terminal" not in told.body["detail"]
        assert not shop.core.requested
        assert shop.listener.gauges()["nonces"] == 0
        assert shop.listener.counters()["problem_unauthenticated"] == 1
        assert shop.reports[-1][1]["reason"] == "unauthenticated"
        assert (await shop.signed("POST", TRANSACTIONS, sale())).status == 200


@pytest.mark.parametrize("skew_s", [-301, 301])
@on_each_loop
async def test_a_time_outside_the_window_is_refused_and_within_it_taken(skew_s: int) -> None:
    async with http_shop(secrets=SECRETS) as shop:
        told = await shop.signed("POST", TRANSACTIONS, sale(), utc_s=UTC_S + skew_s)
        assert (told.status, told.problem) == (401, "signature-expired")
        assert not shop.core.requested
        edge_s = 300 if skew_s > 0 else -300
        assert (await shop.signed("POST", TRANSACTIONS, sale(), utc_s=UTC_S + edge_s)).status == 200


@on_each_loop
async def test_without_any_proof_nothing_of_v1_is_served_and_the_document_says_how() -> None:
    async with http_shop(secrets=SECRETS) as shop:
        for method, path in (("POST", TRANSACTIONS), ("GET", TRANSACTIONS), ("GET", TRANSACTIONS + "/x")):
            told = await shop.ask(method, path, sale() if method == "POST" else None)
            assert (told.status, told.problem) == (401, "unauthenticated")
            assert "Holdfast-HMAC" in told.body["detail"]
        document = (await shop.ask("GET", "/openapi.json")).body
        assert document["components"]["securitySchemes"]["signature"]["scheme"] == "Holdfast-HMAC"
        assert "401" in document["paths"][TRANSACTIONS]["post"]["responses"]


@on_each_loop
async def test_a_signature_speaks_for_its_own_terminal_only() -> None:
    async with http_shop(secrets=SECRETS) as shop:
        secret: dict[str, Any] = {"secret": SECRETS["T0000002"], "terminal": "T0000002"}
        told = await shop.signed("POST", TRANSACTIONS, sale(), **secret)
        assert (told.status, told.problem) == (403, "terminal-not-allowed")
        assert shop.reports[-1][1]["detail"] == "T0000002 speaks for another terminal"
        sold = await shop.signed("POST", TRANSACTIONS, sale())
        for method, path in (("GET", ""), ("POST", "/reversal")):
            body: dict[str, Any] | None = {} if method == "POST" else None
            told = await shop.signed(method, f"{TRANSACTIONS}/{sold.body['id']}{path}", body, **secret)
            assert (told.status, told.problem) == (404, "transaction-unknown")
        told = await shop.signed("GET", f"{TRANSACTIONS}?terminal={TERMINAL}", **secret)
        assert told.problem == "terminal-not-allowed"
        heartbeat = {"clock": "2026-11-18T11:06:40Z"}
        told = await shop.signed("POST", f"/v1/terminals/{TERMINAL}/heartbeat", heartbeat, **secret)
        assert told.problem == "terminal-not-allowed"
        assert len(shop.core.requested) == 1


@on_each_loop
async def test_the_nonces_are_bounded_for_each_terminal_and_in_all() -> None:
    async with http_shop(secrets=SECRETS, nonces_max=3, nonces_per_terminal_max=2) as shop:
        for _ in range(2):
            assert (await shop.signed("POST", TRANSACTIONS, sale())).status == 200
        told = await shop.signed("POST", TRANSACTIONS, sale())
        assert (told.status, told.problem) == (429, "rate-limited")  # which says nothing of what was recorded before
        other: dict[str, Any] = {"secret": SECRETS["T0000002"], "terminal": "T0000002"}
        assert (await shop.signed("POST", TRANSACTIONS, sale(terminal="T0000002"), **other)).status == 200
        told = await shop.signed("POST", TRANSACTIONS, sale(terminal="T0000002"), **other)
        assert told.problem == "rate-limited"
        assert shop.listener.gauges()["nonces"] == 3


def _check(window_ms: int = 1_000) -> SignatureCheck:
    return SignatureCheck(SECRETS.get, lambda: UTC_MS, window_ms=window_ms, nonces_max=10, nonces_per_terminal_max=10)


def test_a_nonce_is_remembered_for_as_long_as_its_signature_could_count() -> None:
    check = _check()
    signed = Signed(method="GET", target="/v1/x", idempotency_key="", body=b"")
    header = authorization(SECRET, signed, TERMINAL, UTC_S, "12345678")
    assert check.check(header, signed, 0) == TERMINAL
    for now_ms in (0, 1_999):
        with pytest.raises(SignatureRefused) as refused:
            check.check(header, signed, now_ms)
        assert refused.value.kind is ProblemKind.NONCE_REUSED
    assert check.check(header, signed, 2_000) == TERMINAL  # only because this test's wall clock stands still
    assert check.remembered == 1


def test_parameters_may_stand_without_quotes_and_in_any_order() -> None:
    signed = Signed(method="GET", target="/v1/x", idempotency_key="", body=b"")
    made = signature(SECRET, signed, TERMINAL, str(UTC_S), "12345678")
    header = f"holdfast-hmac signature={made},nonce=12345678,  timestamp={UTC_S} , terminal={TERMINAL}"
    assert _check().check(header, signed, 0) == TERMINAL


def test_every_part_of_a_request_changes_its_signature() -> None:
    signed = Signed(method="POST", target="/v1/x?a=1", idempotency_key="k", body=b"body")
    of = (SECRET, signed, TERMINAL, "1", "12345678")
    others = {
        signature(SECRET, Signed(method="PUT", target="/v1/x?a=1", idempotency_key="k", body=b"body"), *of[2:]),
        signature(SECRET, Signed(method="POST", target="/v1/x?a=2", idempotency_key="k", body=b"body"), *of[2:]),
        signature(SECRET, Signed(method="POST", target="/v1/x?a=1", idempotency_key="l", body=b"body"), *of[2:]),
        signature(SECRET, Signed(method="POST", target="/v1/x?a=1", idempotency_key="k", body=b"b0dy"), *of[2:]),
        signature(bytes(32), signed, *of[2:]),
        signature(SECRET, signed, "T", "1", "12345678"),
        signature(SECRET, signed, TERMINAL, "2", "12345678"),
        signature(SECRET, signed, TERMINAL, "1", "12345679"),
    }
    assert len(others | {signature(*of)}) == 9
    # Made with `openssl dgst -sha256 -mac HMAC` over the documented lines, joined by LF.
    assert signature(*of) == "d0d2ae333a43a57425f2c15b6b10e05033edc0cdbd29ca58c7cfe63d76bfe61c"


def test_a_listener_where_nobody_could_prove_anything_is_not_made() -> None:
    with pytest.raises(ValueError, match="client certificates or secrets"):
        HttpShop(HttpListenerSettings(), rules=TerminalRules(), secrets=None)
    with pytest.raises(ValueError, match="loopback host only"):
        HttpListenerSettings(host="0.0.0.0", allow_unauthenticated=True)  # noqa: S104
    assert HttpListenerSettings(host="::1", allow_unauthenticated=True).loopback
    assert not HttpListenerSettings(host="localhost.example").loopback
