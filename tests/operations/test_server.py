"""The operators' listener shows the truth, steers only with the token, and survives whoever connects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import uvloop

from gateway.config import Address
from gateway.core.transaction import Answer, Stored, StoredMessage
from gateway.journal.port import JournalInDoubt
from gateway.operations import report
from gateway.operations.server import OperationsServer
from tests.operations.example_gateway import CARD, ExampleGateway, health, transaction

TOKEN = "0123456789abcdef0123456789abcdef"
LOOPBACK = Address("127.0.0.1", 0)


@dataclass
class HttpAnswer:
    """What came back, until the server closed."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(address: Address, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(raw)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def ask(
    address: Address,
    path: str,
    *,
    method: str = "GET",
    token: str = "",
    host: str = "",
    body: bytes = b"",
    content_type: str = "application/json",
) -> HttpAnswer:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or address}", f"Content-Length: {len(body)}"]
    if body:
        lines.append(f"Content-Type: {content_type}")
    if token:
        lines.append(f"Authorization: Bearer {token}")
    raw = await exchange(address, "\r\n".join([*lines, "", ""]).encode(errors="surrogateescape") + body)
    head, _, content = raw.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    named = dict(line.lower().split(": ", 1) for line in headers)
    return HttpAnswer(int(status.split()[1]), named, content)


def served(
    story: Callable[[Address], Awaitable[None]],
    view: ExampleGateway | None = None,
    listen: Address = LOOPBACK,
    token: str = TOKEN,
    *,
    on_uvloop: bool = True,
    **limits: Any,
) -> None:
    """Tell a story to a served gateway, by default on the loop that `holdfast run` uses."""

    async def run() -> None:
        server = OperationsServer(view or ExampleGateway(), listen, token, **limits)
        address = await server.start()
        try:
            await story(address)
        finally:
            await server.close()
            await server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if on_uvloop else None) as runner:
        runner.run(run())


STEERING = b'{"who": "ann", "why": "host confirmed"}'


def test_a_gateway_that_stores_while_its_acquirer_is_away_is_alive_and_ready() -> None:
    async def story(address: Address) -> None:
        assert (await ask(address, "/livez")).status == 200
        ready = await ask(address, "/readyz")
        assert (ready.status, ready.json) == (200, {"ready": True, "reasons": []})

    served(story)


def test_a_gateway_that_cannot_take_transactions_is_alive_but_not_ready_and_says_every_reason() -> None:
    async def story(address: Address) -> None:
        assert (await ask(address, "/livez")).status == 200
        ready = await ask(address, "/readyz")
        assert (ready.status, ready.json["reasons"]) == (503, ["disk full", "key 3 is missing"])

    served(story, ExampleGateway(reasons=("disk full", "key 3 is missing")))


def test_metrics_tell_the_same_numbers_as_status() -> None:
    async def story(address: Address) -> None:
        metrics = await ask(address, "/metrics")
        assert metrics.status == 200
        assert metrics.headers["content-type"].startswith("text/plain")
        lines = metrics.body.decode().splitlines()
        status = (await ask(address, "/v1/status")).json
        assert f'holdfast_transactions{{state="stored"}} {float(status["queue"]["by_state"]["stored"])}' in lines
        assert 'holdfast_queue_depth{obligation="advice"} 2.0' in lines
        assert 'holdfast_queue_depth{obligation="person"} 1.0' in lines
        assert "holdfast_queue_oldest_seconds 60.0" in lines
        assert 'holdfast_link_state{state="down"} 1.0' in lines
        assert 'holdfast_link_state{state="up"} 0.0' in lines
        assert 'holdfast_mode{mode="standing-in"} 1.0' in lines
        assert 'holdfast_events_total{event="standin.approved"} 2.0' in lines
        assert "holdfast_journal_commits_total 5.0" in lines
        assert "holdfast_journal_writes_total 10.0" in lines
        assert 'holdfast_info{gateway="shop-7",version="1.2.3"} 1.0' in lines

    served(story)


def test_every_metric_has_a_help_text_and_a_name_of_ours() -> None:
    async def story(address: Address) -> None:
        lines = (await ask(address, "/metrics")).body.decode().splitlines()
        helped = {line.split()[2] for line in lines if line.startswith("# HELP") and len(line.split()) > 3}
        typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
        assert typed == helped
        assert len(typed) > 20
        assert all(name.startswith("holdfast_") for name in typed)

    served(story)


def test_status_names_mode_link_queue_and_journal() -> None:
    async def story(address: Address) -> None:
        status = (await ask(address, "/v1/status")).json
        assert status["mode"] == "standing-in"
        assert status["acquirer"]["link"] == "down"
        assert status["acquirer"]["since"] == "2027-01-15T07:59:30.000Z"
        assert status["acquirer"]["endpoints"] == {"192.0.2.1:9583": False}
        assert status["acquirer"]["silent"] == ["192.0.2.1:9583"]
        assert status["queue"]["by_obligation"] == {"answer": 0, "advice": 2, "reversal": 0, "person": 1}
        assert status["queue"]["oldest_owed_age_s"] == 60
        assert status["journal"]["mean_commit_batch"] == 2
        assert status["terminals"] == [{"listen": "127.0.0.1:8583", "connections": 3, "in_flight": 1}]

    served(story)


def test_a_failing_journal_is_told_in_status_and_metrics() -> None:
    async def story(address: Address) -> None:
        assert (await ask(address, "/v1/status")).json["journal"]["reason"] == "no space"
        assert b"holdfast_journal_writable 0.0" in (await ask(address, "/metrics")).body

    served(story, ExampleGateway(journal=health(writable=False, reason="no space")))


def test_the_queue_is_paged_and_filtered() -> None:
    async def story(address: Address) -> None:
        first = (await ask(address, "/v1/queue?limit=2")).json
        assert [row["id"] for row in first["transactions"]] == [1, 2]
        assert first["next_after"] == 2
        last = (await ask(address, "/v1/queue?limit=2&after=2")).json
        assert ([row["id"] for row in last["transactions"]], last["next_after"]) == ([3], None)
        assert not (await ask(address, "/v1/queue?state=reversing")).json["transactions"]
        assert not (await ask(address, "/v1/queue?terminal=other")).json["transactions"]

    served(story, ExampleGateway(rows=[transaction(number) for number in (1, 2, 3)]))


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=-1",
        "state=lost",
        "colour=red",
        "limit=²",
        "lane=%00",
        "terminal=a%1Bb",
    ],
)
def test_a_wrong_query_is_answered_with_what_would_be_right(query: str) -> None:
    async def story(address: Address) -> None:
        answer = await ask(address, f"/v1/queue?{query.replace('²', '%C2%B2')}")
        assert answer.status == 400
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json["code"] == "query"

    served(story)


def test_a_transaction_is_shown_with_its_card_masked_and_its_track_withheld() -> None:
    async def story(address: Address) -> None:
        answer = await ask(address, "/v1/queue/1")
        assert CARD.encode() not in answer.body
        assert answer.json["request"]["fields"]["2"] == "476173******0010"
        assert answer.json["request"]["fields"]["4"] == "000000001250"
        assert answer.json["transaction"]["amount_minor"] == 1250
        assert answer.json["retained_fields"] == [35]

    served(story)


def test_a_transaction_shows_its_card_in_no_field_of_either_message_and_nothing_behind_it_on_a_track() -> None:
    request = StoredMessage("0200", {2: CARD, 60: CARD, 61: f"00{CARD}", 62: f"01 {CARD}={'3012201' * 2}"})
    answer = Answer("0210", {39: "00", 61: f"00{CARD}", 63: CARD + CARD})
    told = msgspec.json.encode(report.stored_report(Stored(transaction(1), request, {}, answer)))
    assert CARD.encode() not in told
    assert b"3012201" not in told


def test_a_stan_that_the_gateway_assigned_is_shown_as_the_acquirers_books_have_it() -> None:
    row = transaction(1, key="H|M1|T1|2|831879", stan="")
    assert report.transaction_report(row).stan == "831879"


def test_an_unknown_and_a_damaged_transaction_are_told_apart() -> None:
    async def story(address: Address) -> None:
        assert (await ask(address, "/v1/queue/99")).status == 404
        assert (await ask(address, "/v1/queue/666")).status == 410
        assert (await ask(address, "/v1/queue/99/explain")).status == 404
        too_long = await ask(address, f"/v1/queue/{10**18}")
        assert too_long.status == 404
        assert too_long.json["detail"] == "no transaction's number has 19 digits"

    served(story)


def test_explain_names_what_blocks_by_which_rule_and_when_it_is_tried() -> None:
    async def story(address: Address) -> None:
        explained = (await ask(address, "/v1/queue/2/explain")).json
        assert explained["blocked_by"] == "transaction 1"
        assert explained["rule"] == "D14"
        assert explained["next_try"] == "2027-01-15T08:00:05.000Z"

    served(story)


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "0", "\udcff"])
@pytest.mark.parametrize("path", ["/v1/queue/1/release", "/v1/maintenance/on"])
def test_steering_without_the_token_is_refused_and_nothing_is_asked_of_the_gateway(path: str, token: str) -> None:
    view = ExampleGateway()

    async def story(address: Address) -> None:
        answer = await ask(address, path, method="POST", token=token, body=STEERING)
        assert (answer.status, answer.json["code"]) == (401, "token")
        assert answer.headers["www-authenticate"] == "bearer"

    served(story, view)
    assert not view.acts


def test_without_a_configured_token_nobody_can_steer() -> None:
    async def story(address: Address) -> None:
        assert (await ask(address, "/v1/queue/1/void", method="POST", body=STEERING)).status == 401
        assert (await ask(address, "/v1/queue/1/void", method="POST", token=" ", body=STEERING)).status == 401

    served(story, token="")


@pytest.mark.parametrize(
    ("path", "act", "number"),
    [
        ("/v1/queue/1/release", "release", 1),
        ("/v1/queue/1/cancel", "cancel", 1),
        ("/v1/queue/1/void", "void", 1),
        ("/v1/maintenance/on", "maintenance-on", 0),
        ("/v1/maintenance/off", "maintenance-off", 0),
    ],
)
def test_an_act_reaches_the_gateway_with_who_and_why(path: str, act: str, number: int) -> None:
    view = ExampleGateway()

    async def story(address: Address) -> None:
        answer = await ask(address, path, method="POST", token=TOKEN, body=STEERING)
        assert (answer.status, answer.json) == (200, {"done": True, "text": f"{act}: done"})

    served(story, view)
    assert [(one.value, *rest) for one, *rest in view.acts] == [(act, number, "ann", "host confirmed")]


def test_an_act_that_is_refused_is_a_conflict_with_the_reason() -> None:
    async def story(address: Address) -> None:
        answer = await ask(address, "/v1/queue/2/release", method="POST", token=TOKEN, body=STEERING)
        assert (answer.status, answer.json["detail"]) == (409, "transaction 2 is not parked")

    served(story)


def test_an_act_that_waits_for_room_is_answered_that_it_will_be_done_and_not_that_it_failed() -> None:
    """On a full disk an act waits in the journal, and is carried out when there is room: nobody is to decide anew."""
    view = ExampleGateway()

    async def story(address: Address) -> None:
        view.room = asyncio.Event()
        answer = await ask(address, "/v1/queue/1/cancel", method="POST", token=TOKEN, body=STEERING)
        assert (answer.status, answer.json["code"]) == (503, "not-yet")
        assert "will be as soon as the journal takes it" in answer.json["detail"]
        assert "holdfast queue show 1" in answer.json["detail"]
        view.room.set()

    served(story, view, act_wait_s=0.05)
    assert len(view.acts) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"who": "ann"}', 422),
        (b'{"who": "ann", "why": ""}', 422),
        (b'{"who": "ann", "why": "   "}', 422),
        (b'{"who": "ann", "why": "x", "then": 1}', 422),
        (b'{"who": "ann", "why": "a\\nb"}', 422),
        (b'{"who": "ann: agreed by bob", "why": "the entry would say that ann has given this reason"}', 422),
        (b'{"who": "ann\\u202e", "why": "x"}', 422),
        (b'{"who": "ann\xff\xfe", "why": "x"}', 422),
        (b'{"who": "ann", "why": "card 4761 7390 0101 0010 called"}', 422),
        (b"\xff", 422),
        (b'{"who": "ann", "why": "' + b"x" * 9000 + b'"}', 413),
    ],
)
def test_a_steering_body_that_is_wrong_too_large_or_holds_a_card_number_does_nothing(body: bytes, status: int) -> None:
    view = ExampleGateway()

    async def story(address: Address) -> None:
        answer = await ask(address, "/v1/queue/1/void", method="POST", token=TOKEN, body=body)
        assert answer.status == status
        assert b"4761" not in answer.body

    served(story, view)
    assert not view.acts


def test_why_the_log_goes_on_cannot_say_over_what_it_does() -> None:
    view = ExampleGateway()

    async def story(address: Address) -> None:
        body = b'{"who": "ann", "why": "restored | signed before: nothing"}'
        answer = await ask(address, "/v1/audit/continue", method="POST", token=TOKEN, body=body)
        assert answer.status == 422

    served(story, view)
    assert not view.acts


def test_a_form_cannot_steer_even_with_the_token() -> None:
    async def story(address: Address) -> None:
        answer = await ask(
            address, "/v1/maintenance/on", method="POST", token=TOKEN, body=STEERING, content_type="text/plain"
        )
        assert answer.status == 415

    served(story)


def test_a_name_that_the_listener_does_not_go_by_is_refused() -> None:
    async def story(address: Address) -> None:
        assert (await ask(address, "/v1/status", host="evil.example")).status == 421
        assert (await ask(address, "/v1/status", host="evil.example:9480")).status == 421
        assert (await ask(address, "/v1/status", host="localhost:9480")).status == 200
        assert (await ask(address, "/v1/status", host="[::1]:9480")).status == 200

    served(story)


def test_off_this_machine_reading_needs_the_token_too_but_probes_do_not() -> None:
    async def story(address: Address) -> None:
        here = Address("127.0.0.1", address.port)
        assert (await ask(here, "/v1/status")).status == 401
        assert (await ask(here, "/v1/queue/1")).status == 401
        assert (await ask(here, "/v1/status", token=TOKEN)).status == 200
        assert (await ask(here, "/readyz")).status == 200

    served(story, listen=Address("0.0.0.0", 0))  # noqa: S104 - the point of the test


def test_unknown_paths_and_methods_are_problems_in_json() -> None:
    async def story(address: Address) -> None:
        missing = await ask(address, "/v1/nothing")
        assert (missing.status, missing.json["status"]) == (404, 404)
        wrong = await ask(address, "/v1/status", method="POST")
        assert wrong.status == 405
        assert "GET" in wrong.headers["allow"].upper()

    served(story)


def test_a_fault_of_ours_is_answered_without_its_details() -> None:
    async def story(address: Address) -> None:
        answer = await ask(address, "/v1/status")
        assert answer.status == 500
        assert CARD.encode() not in answer.body

    served(story, ExampleGateway(failing=RuntimeError(f"card {CARD}")))


def test_while_the_gateway_ends_for_its_journal_status_and_metrics_say_why() -> None:
    async def story(address: Address) -> None:
        for path in ("/v1/status", "/metrics"):
            answer = await ask(address, path)
            assert (answer.status, answer.json["code"], answer.json["detail"]) == (503, "journal", "it has stopped")

    served(story, ExampleGateway(failing=JournalInDoubt("it has stopped")))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /livez HT",
        b"POST /v1/queue/1/void HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["silent", "half a header", "half a body"],
)
@pytest.mark.parametrize("on_uvloop", [True, False])
def test_a_client_that_does_not_finish_is_cut_off_while_others_are_served(sent: bytes, on_uvloop: bool) -> None:
    async def story(address: Address) -> None:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(sent)
        assert (await ask(address, "/livez")).status == 200
        try:
            rest = await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            rest = b""
        assert rest == b""
        writer.close()
        assert (await ask(address, "/livez")).status == 200

    served(story, request_timeout_s=0.8, on_uvloop=on_uvloop)


@pytest.mark.parametrize("on_uvloop", [True, False])
def test_a_connection_over_the_limit_is_closed_at_once_and_a_free_place_is_taken_again(on_uvloop: bool) -> None:
    async def story(address: Address) -> None:
        held = [await asyncio.open_connection(address.host, address.port) for _ in range(2)]
        assert (await ask(address, "/livez")).status == 200  # the third place
        third = await asyncio.open_connection(address.host, address.port)
        with pytest.raises((ConnectionError, IndexError)):
            await ask(address, "/livez")
        for _, writer in [*held, third]:
            writer.close()
            await writer.wait_closed()
        for _ in range(50):
            try:
                assert (await ask(address, "/livez")).status == 200
                break
            except (ConnectionError, IndexError):
                await asyncio.sleep(0)
        else:
            pytest.fail("no place became free")

    served(story, connections_max=3, on_uvloop=on_uvloop)


@pytest.mark.parametrize(
    "raw", [b"\x00\x3c60000300006031", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n"]
)
def test_bytes_that_are_no_request_are_refused_and_the_connection_closed(raw: bytes) -> None:
    async def story(address: Address) -> None:
        answer = await exchange(address, raw)
        assert answer == b"" or answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 421"))
        assert (await ask(address, "/livez")).status == 200

    served(story, request_timeout_s=2.0)


def test_each_answer_closes_its_connection() -> None:
    async def story(address: Address) -> None:
        assert (await ask(address, "/livez")).headers["connection"] == "close"

    served(story)


def test_an_address_in_use_is_an_error_of_the_start_and_leaves_nothing_open() -> None:
    async def story(address: Address) -> None:
        second = OperationsServer(ExampleGateway(), address, TOKEN)
        with pytest.raises(OSError, match="address already in use"):
            await second.start()
        await second.close()

    served(story)
