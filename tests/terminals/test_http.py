"""JSON over HTTP: operations, idempotency, and every problem that they can end in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.events import Lookup
from gateway.core.lifecycle import State
from gateway.core.transaction import Kind, Stored
from protocol.http_api import ProblemKind
from protocol.iso8583.rules import OriginalForm, Period, TerminalRules
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.http_shop import OTHER_PAN, PAN, TERMINAL, HttpShop, http_shop, sale

TRANSACTIONS = "/v1/transactions"
BATCH = TerminalRules(period=Period.BATCH, original=OriginalForm.SAME_STAN)


def stored(shop: HttpShop, key: str) -> Stored:
    found = shop.core.rows[key]
    assert isinstance(found, Stored)
    return found


@on_each_loop
async def test_a_sale_is_told_its_outcome_and_is_found_again() -> None:
    async with http_shop() as shop:
        told = await shop.sell()
        assert told.status == 200
        expected = {
            "type": "sale", "state": "approved", "terminal": TERMINAL, "stan": "000001", "amount_minor": 1000,
            "currency": "156", "card_masked": "411111******1111", "response_code": "00", "response_text": "Approved",
            "approval_code": "123456", "rrn": "612345678901", "offline": False, "accepted_at": "2026-11-18T11:06:40Z",
        }  # fmt: skip
        assert told.body.items() >= expected.items()
        again = await shop.ask("GET", f"{TRANSACTIONS}/{told.body['id']}")
        assert (again.status, again.body) == (200, told.body)
        request = shop.core.requested[0]
        assert (request.mti, request.kind, request.fields[22], request.fields[14]) == ("0200", Kind.SALE, "012", "3012")
        assert request.alias.startswith(f"idem|{request.merchant}|{TERMINAL}|")
        assert len(request.alias_digest) == 32


@pytest.mark.parametrize(
    ("body", "mti", "fields"),
    [
        ({"type": "authorisation"}, "0100", {2: PAN, 22: "012"}),
        ({"type": "advice", "processing_code": "200000"}, "0220", {3: "200000"}),
        ({"card": {"track2": f"{PAN}=30121010000"}}, "0200", {22: "021", 35: f"{PAN}=30121010000"}),
        ({"card": {"track2": f"{PAN}D30121010000"}}, "0200", {22: "021", 35: f"{PAN}=30121010000"}),
        ({"card": {"emv": "5A084111111111111111"}, "entry_mode": "071"}, "0200", {22: "071"}),
        ({"card": {"emv": "5A084111111111111111"}, "local_time": "235959"}, "0200", {22: "051", 12: "235959"}),
        ({"fields": {"62": "private"}}, "0200", {62: "private"}),
    ],
)
@on_each_loop
async def test_each_kind_of_card_and_business_becomes_its_fields(
    body: dict[str, Any], mti: str, fields: dict[int, str]
) -> None:
    async with http_shop() as shop:
        told = await shop.sell(**body)
        assert (told.status, told.body["card_masked"]) == (200, "411111******1111")
        request = shop.core.requested[0]
        assert request.mti == mti
        assert {**request.fields, **request.sensitive}.items() >= fields.items()
        assert request.pan == PAN


@on_each_loop
async def test_a_retry_gets_the_stored_answer_however_its_members_are_ordered() -> None:
    async with http_shop() as shop:
        first = await shop.sell(key="once")
        turned = json.dumps(dict(reversed(sale().items())), indent=2).encode()
        second = await shop.ask("POST", TRANSACTIONS, raw=turned, key='"once"')
        assert (first.status, first.text) == (second.status, second.text)
        assert shop.core.sends == 1


@on_each_loop
async def test_a_retry_of_a_stand_in_approval_is_told_the_same_after_it_was_forwarded() -> None:
    async with http_shop() as shop:
        shop.core.state, shop.core.advised = State.STORED, True
        first = await shop.sell(key="once")
        assert (first.body["state"], first.body["offline"]) == ("approved-offline", True)
        key = shop.core.requested[0].key
        row = stored(shop, key)
        shop.core.rows[key] = replace(row, transaction=row.transaction.evolved(shop.utc_ms, State.APPROVED))
        assert (await shop.sell(key="once")).text == first.text
        looked = await shop.ask("GET", f"{TRANSACTIONS}/{first.body['id']}")
        assert (looked.body["state"], looked.body["offline"]) == ("approved", True)


@on_each_loop
async def test_the_same_key_with_another_body_is_422() -> None:
    async with http_shop() as shop:
        await shop.sell(key="once")
        for changed in ({"amount_minor": 1001}, {"stan": "000002"}, {"stan": None}, {"fields": {"62": "x"}}):
            told = await shop.sell(key="once", **changed)
            assert (told.status, told.problem) == (422, "key-reused")
        assert shop.core.sends == 1


@on_each_loop
async def test_another_key_for_the_same_stan_is_a_retry_and_with_another_card_422() -> None:
    async with http_shop() as shop:
        first = await shop.sell(key="one")
        assert (await shop.sell(key="two")).text == first.text
        told = await shop.sell(key="three", card={"pan": OTHER_PAN})
        assert (told.status, told.problem) == (422, "key-reused")
        assert shop.core.sends == 1


@on_each_loop
async def test_without_a_stan_the_key_alone_says_who_it_is_and_a_stan_is_assigned() -> None:
    async with http_shop() as shop:
        first = await shop.sell(key="once", stan=None)
        request = shop.core.requested[0]
        assert (request.stan, 11 in request.fields) == ("", False)
        _, _, terminal, message_class, stan = request.key.split("|")
        assert (terminal, message_class, stan) == (TERMINAL, "2", first.body["stan"])
        assert request.assigned[0] == stan
        assert len(set(request.assigned)) == 4
        assert all(500_000 <= int(each) <= 999_999 for each in request.assigned)
        assert (await shop.sell(key="once", stan=None)).text == first.text
        assert (await shop.sell(key="twice", stan=None)).body["stan"] != stan
        assert shop.core.requested[-1].assigned[0] == (await shop.sell(key="twice", stan=None)).body["stan"]
        assert (await shop.ask("GET", f"{TRANSACTIONS}/{first.body['id']}")).body == first.body


@on_each_loop
async def test_a_retry_of_one_in_flight_joins_it_and_409_comes_only_when_the_wait_is_over() -> None:
    async with http_shop(reply_wait_ms=150) as shop:
        shop.core.holds = True
        told = await shop.sell(key="once")
        assert (told.status, told.problem) == (409, "in-progress")
        joining = [asyncio.ensure_future(shop.sell(key="once")) for _ in range(2)]
        await until(lambda: len(shop.core.requested) == 3, "both have joined")
        shop.core.decide(shop.core.requested[0].key)
        answers = await asyncio.gather(*joining)
        assert {told.status for told in answers} == {200}
        assert shop.core.sends == 1
        counted = shop.listener.counters()
        assert (counted["requests_unanswered"], counted["replies"], counted["replies_unknown"]) == (1, 2, 1)


@on_each_loop
async def test_a_till_that_hangs_up_changes_nothing() -> None:
    async with http_shop() as shop:
        shop.core.holds = True
        asking = asyncio.ensure_future(shop.sell(key="once"))
        await until(lambda: bool(shop.core.requested), "taken")
        asking.cancel()
        await asyncio.wait([asking])
        assert shop.listener.gauges()["in_flight"] == 1
        shop.core.decide(shop.core.requested[0].key)
        await until(lambda: shop.listener.gauges()["in_flight"] == 0, "its place is free")
        assert (await shop.sell(key="once")).body["state"] == "approved"
        assert shop.core.sends == 1


@pytest.mark.parametrize(
    ("response", "state", "advised", "told", "looked"),
    [
        ("51", State.DECLINED, False, "declined", "declined"),
        ("91", State.DECLINED, False, "declined", "declined"),
        ("68", State.REVERSING, False, "in-doubt", "in-doubt"),
        ("96", State.REVERSING, False, "in-doubt", "in-doubt"),
        ("09", State.REVERSED, False, "in-doubt", "reversed"),
        ("94", State.PARKED, False, "parked", "parked"),
        ("12", State.CANCELLED, False, "cancelled", "cancelled"),
        ("00", State.STORED, True, "approved-offline", "approved-offline"),
        ("00", State.APPROVED, False, "approved", "approved"),
    ],
)
@pytest.mark.parametrize("names_rows", [False, True])
@on_each_loop
async def test_each_recorded_outcome_is_an_answer(
    response: str, state: State, advised: bool, told: str, looked: str, names_rows: bool
) -> None:
    async with http_shop() as shop:
        shop.core.names_rows = names_rows
        shop.core.response, shop.core.state, shop.core.advised = response, state, advised
        for _ in range(2):
            answer = await shop.sell(key="once")
            assert (answer.status, answer.body["state"], answer.body["response_code"]) == (200, told, response)
        looking = await shop.ask("GET", f"{TRANSACTIONS}/{answer.body['id']}")
        assert looking.body["state"] == looked


@pytest.mark.parametrize("rules", [TerminalRules(), BATCH])
@on_each_loop
async def test_a_reversal_is_one_for_each_original_whoever_asks(rules: TerminalRules) -> None:
    async with http_shop(rules) as shop:
        sold = await shop.sell(batch="000007")
        path = f"{TRANSACTIONS}/{sold.body['id']}/reversal"
        undone = await shop.ask("POST", path, {"reason": "no-answer"}, key="undo")
        assert (undone.status, undone.body["type"], undone.body["response_code"]) == (200, "reversal", "00")
        assert (await shop.ask("POST", path, {"reason": "no-answer"}, key="undo")).text == undone.text
        assert (await shop.ask("POST", path, {}, key="undo again")).text == undone.text
        changed = await shop.ask("POST", path, {"reason": "cancelled"}, key="undo")
        assert (changed.status, changed.problem) == (422, "key-reused")
        sale_request, reversal = shop.core.requested[:2]
        assert reversal.original_keys == (sale_request.key,)
        assert reversal.key == f"O1|{sale_request.key.partition('|')[2].replace('|2|', '|4|')}"
        assert reversal.fingerprint == sale_request.fingerprint
        assert reversal.fields[39] == "98"
        looked = await shop.ask("GET", f"{TRANSACTIONS}/{sold.body['id']}")
        assert looked.body["state"] == "reversing"
        retried = await shop.sell(batch="000007", key="late")
        assert (retried.body["response_code"], retried.body["state"]) == ("12", "reversing")
        again = await shop.ask("POST", f"{TRANSACTIONS}/{undone.body['id']}/reversal", {})
        assert (again.status, again.problem) == (409, "not-reversible")
        assert shop.core.sends == 2


@on_each_loop
async def test_a_sale_with_an_assigned_stan_is_reversed_by_its_id() -> None:
    async with http_shop() as shop:
        sold = await shop.sell(stan=None)
        undone = await shop.ask("POST", f"{TRANSACTIONS}/{sold.body['id']}/reversal", {})
        assert (undone.status, undone.body["stan"]) == (200, sold.body["stan"])
        reversal = shop.core.requested[1]
        assert reversal.key.split("|")[3:] == ["4", sold.body["stan"]]
        assert reversal.fields[11] == sold.body["stan"]


@on_each_loop
async def test_transactions_are_listed_in_parts() -> None:
    async with http_shop() as shop:
        for number in range(5):
            await shop.sell(stan=f"{number:06}")
        await shop.sell(terminal="OTHER")
        seen, after = [], 0
        while True:
            page = await shop.ask("GET", f"{TRANSACTIONS}?terminal={TERMINAL}&limit=2&after={after}")
            seen += [each["stan"] for each in page.body["transactions"]]
            if (after := page.body["next"]) is None:
                break
        assert seen == [f"{number:06}" for number in range(5)]
        only = await shop.ask("GET", f"{TRANSACTIONS}?terminal={TERMINAL}&stan=000003")
        assert [each["stan"] for each in only.body["transactions"]] == ["000003"]


@pytest.mark.parametrize(
    "query",
    ["", "stan=000001", "terminal=", "terminal=T0000001&stan=", "terminal=T0000001&stan=1", "terminal=A%0A",
     "terminal=T0000001&limit=0", "terminal=T0000001&limit=101", "terminal=T0000001&after=-1",
     "terminal=T0000001&after=1&after=2", "terminal=T0000001&state=approved"],
)  # fmt: skip
@on_each_loop
async def test_a_query_of_another_form_is_400(query: str) -> None:
    async with http_shop() as shop:
        told = await shop.ask("GET", f"{TRANSACTIONS}?{query}")
        assert (told.status, told.problem) == (400, "invalid-request")


@on_each_loop
async def test_a_heartbeat_tells_time_and_mode_and_the_last_one_is_kept() -> None:
    async with http_shop(terminals_max=2) as shop:
        shop.mode = "standing-in"
        heartbeat = {
            "clock": "2026-11-18T19:06:41.250+08:00", "battery_percent": 80, "power_source": "battery",
            "signal_dbm": -70, "paper": "low", "software_version": f"1.2 {PAN}",
        }  # fmt: skip
        told = await shop.ask("POST", f"/v1/terminals/{TERMINAL}/heartbeat", heartbeat, key=None)
        assert told.body == {"server_time": "2026-11-18T11:06:40Z", "mode": "standing-in", "clock_offset_ms": 1250}
        heard = shop.listener.heartbeats()[TERMINAL]
        assert (heard.heartbeat.battery_percent, heard.utc_ms) == (80, shop.utc_ms)
        assert PAN not in repr(heard)
        for name in ("A", "B"):
            await shop.ask("POST", f"/v1/terminals/{name}/heartbeat", {"clock": "2026-11-18T11:06:40Z"})
        assert list(shop.listener.heartbeats()) == ["A", "B"]
        assert (await shop.ask("POST", "/v1/terminals/T00000001/heartbeat", heartbeat)).problem == "not-found"


@on_each_loop
async def test_the_mode_is_on_every_answer() -> None:
    async with http_shop() as shop:
        for shop.mode in ("online", "standing-in", "maintenance"):
            assert (await shop.sell(key="once")).headers["X-Gateway-Mode"] == shop.mode


PROBLEMS: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", TRANSACTIONS, {"body": sale(), "key": None}, "idempotency-key-missing"),
    ("POST", TRANSACTIONS, {"body": sale(), "key": "x" * 256}, "idempotency-key-invalid"),
    ("POST", TRANSACTIONS, {"raw": b"{"}, "malformed-json"),
    ("POST", TRANSACTIONS, {"raw": b"[" * 10_000}, "too-deep"),
    ("POST", TRANSACTIONS, {"body": {**sale(), "cvv": PAN}}, "invalid-request"),
    ("POST", TRANSACTIONS, {"body": {**sale(), PAN: PAN}}, "invalid-request"),
    ("POST", TRANSACTIONS, {"raw": b"x" * 16_385}, "too-large"),
    ("POST", TRANSACTIONS, {"body": sale(), "headers": {"Content-Type": "text/plain"}}, "unsupported-media-type"),
    ("POST", TRANSACTIONS, {"body": sale(), "headers": {"Content-Type": ";;"}}, "unsupported-media-type"),
    ("POST", TRANSACTIONS, {"body": sale(), "headers": {"Content-Encoding": "gzip"}}, "unsupported-media-type"),
    ("POST", TRANSACTIONS, {"body": sale(), "headers": {"Expect": PAN}}, "invalid-request"),
    ("GET", f"/{PAN}", {}, "not-found"),
    ("GET", "/v1/transactions/", {}, "not-found"),
    ("GET", f"/v1/transactions/{PAN}", {}, "transaction-unknown"),
    ("GET", "/v1/transactions/%C3%97%C3%B8", {}, "transaction-unknown"),
    ("GET", "/v1/transactions/SHwxfDJ8Mw", {}, "transaction-unknown"),
    ("POST", "/v1/transactions/RDIwMjYxMTE4fE18VHwyfDAwMDAwMQ/reversal", {"body": {}}, "transaction-unknown"),
    ("DELETE", TRANSACTIONS, {}, "method-not-allowed"),
    ("GET", f"/v1/terminals/{TERMINAL}/heartbeat", {}, "method-not-allowed"),
    ("GET", "/openapi.json", {"headers": {"X-Long": PAN * 200}}, "headers-too-large"),
]


@pytest.mark.parametrize(("method", "path", "how", "problem"), PROBLEMS)
@on_each_loop
async def test_each_refusal_is_a_problem_of_its_type(method: str, path: str, how: dict[str, Any], problem: str) -> None:
    async with http_shop() as shop:
        told = await shop.ask(method, path, **how)
        kind = next(kind for kind in ProblemKind if kind.value[0] == problem)
        assert (told.problem, told.status, told.body["title"]) == (problem, kind.status, kind.title)
        assert shop.listener.counters()[f"problem_{problem.replace('-', '_')}"] == 1
        assert not shop.core.requested
        if problem == "method-not-allowed":
            assert {"POST", "GET", "HEAD"} >= set(told.headers["Allow"].split(","))
        assert (await shop.sell()).status == 200


@pytest.mark.parametrize(
    "sent",
    [f"{PAN}\r\n\r\n", f"GET /{PAN} HTTP/9.9\r\n\r\n", f"GET / HTTP/1.1\r\nBad Header {PAN}\r\n\r\n", "\x16\x03\x01"],
)
@on_each_loop
async def test_what_is_no_http_is_answered_without_a_word_of_what_it_was(sent: str) -> None:
    async with http_shop() as shop:
        reader, writer = await shop.line(sent.encode("latin-1") + b"\r\n\r\n")
        async with asyncio.timeout(5):
            answer = (await reader.read()).decode()
        assert "400" in answer.splitlines()[0]
        assert "urn:holdfast:problem:malformed-http" in answer
        assert "X-Gateway-Mode: online" in answer
        assert PAN not in answer
        writer.close()


@on_each_loop
async def test_what_was_not_recorded_is_503_and_a_damaged_record_is_said_to_be_one() -> None:
    async with http_shop() as shop:
        shop.core.loses = True
        told = await shop.sell(key="once")
        assert (told.status, told.problem) == (503, "not-recorded")
        shop.core.loses = False
        sold = await shop.sell(key="once")
        shop.core.rows[shop.core.requested[0].key] = Lookup.DAMAGED
        told = await shop.sell(key="once")
        assert (told.status, told.problem) == (500, "record-damaged")
        told = await shop.ask("GET", f"{TRANSACTIONS}/{sold.body['id']}")
        assert (told.status, told.problem) == (500, "record-damaged")


@on_each_loop
async def test_a_fault_of_ours_is_500_without_its_text() -> None:
    async with http_shop() as shop:
        rows = shop.core.rows
        shop.core.rows = None  # type: ignore[assignment]
        told = await shop.sell()
        assert (told.status, told.problem) == (500, "internal")
        assert shop.reports[-1][1]["detail"] in {"AttributeError", "TypeError"}
        shop.core.rows = rows


@on_each_loop
async def test_an_id_of_a_key_that_may_come_again_names_its_own_transaction_and_no_newer_one() -> None:
    async with http_shop(TerminalRules(period=Period.HORIZON)) as shop:
        old = await shop.sell()
        key = shop.core.requested[0].key
        assert key.startswith("H|")
        assert (await shop.ask("GET", f"{TRANSACTIONS}/{old.body['id']}")).status == 200
        row = stored(shop, key)
        newer = row.transaction.evolved(shop.utc_ms, State.APPROVED)
        newer.id = 77
        shop.core.rows[key] = replace(row, transaction=newer)
        told = await shop.ask("GET", f"{TRANSACTIONS}/{old.body['id']}")
        assert (told.status, told.problem) == (404, "transaction-unknown")


@on_each_loop
async def test_an_idempotency_key_made_of_a_card_number_is_not_kept() -> None:
    async with http_shop() as shop:
        await shop.sell(key=f"sale-{PAN}", stan=None)
        request = shop.core.requested[0]
        assert PAN not in request.alias + request.key


@on_each_loop
async def test_after_stop_admitting_new_requests_are_503_and_outcomes_still_go_out() -> None:
    async with http_shop() as shop:
        shop.core.holds = True
        waiting = asyncio.ensure_future(shop.sell(key="once"))
        await until(lambda: bool(shop.core.requested), "taken")
        _, writer = await shop.line()  # connected before
        await until(lambda: shop.listener.gauges()["connections"] == 2, "connected")
        shop.listener.stop_admitting()
        assert await shop.listener.drain(20) == 1
        writer.write(b"GET /v1/transactions?terminal=A HTTP/1.1\r\nHost: x\r\n\r\n")
        await shop.counted("problem_stopping")
        draining = asyncio.ensure_future(shop.listener.drain(5_000))
        shop.core.decide(shop.core.requested[0].key)
        assert await draining == 0
        assert (await waiting).body["state"] == "approved"
        writer.close()


@on_each_loop
async def test_close_tells_whoever_still_waits_to_ask_again_and_not_that_nothing_was_recorded() -> None:
    async with http_shop(close_timeout_ms=300) as shop:
        shop.core.holds = True
        waiting = asyncio.ensure_future(shop.sell(key="once"))
        await until(lambda: bool(shop.core.requested), "taken")
        await shop.listener.close()
        told = await waiting
        assert (told.status, told.problem) == (409, "in-progress")
