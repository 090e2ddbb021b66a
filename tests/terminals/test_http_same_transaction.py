"""One terminal, two protocols, one transaction: real engine, real journal, both listeners in front of them (D1, D2)."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.clock import SystemClock
from gateway.conductor import Conductor
from gateway.core.effects import Find, Load, Purpose, Send
from gateway.core.engine import Engine
from gateway.core.events import Answered, Connected, Found, JournalEvent, Lookup, NotSent
from gateway.core.fingerprint import KeyedHash
from gateway.core.lifecycle import State
from gateway.core.standin import Exposure, Policy
from gateway.core.transaction import Answer, Stored, Transaction
from gateway.core.work import EngineSettings
from gateway.journal.keyring import create_keyring
from gateway.journal.port import Listing
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.terminals.http import HttpListener
from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.iso8583 import Iso8583Listener
from gateway.terminals.limits import ListenerSettings
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message
from protocol.iso8583.mti import answer_mti
from protocol.settlement import Totals, totals_text
from tests.acquirers.waiting import on_each_loop, until
from tests.terminals.terminal import PAN, Terminal, sale

MERCHANT, TERMINAL = "M00000000000001", "T0000001"


class Ahead(SystemClock):
    """The machine's clocks; the wall clock can be put forward."""

    ahead_ms = 0

    def utc_ms(self) -> int:
        return super().utc_ms() + self.ahead_ms


class House:
    """A gateway of two listeners; its acquirer approves at once, or is away."""

    def __init__(self, dialect: str, folder: Path) -> None:
        self.dialect = load_dialect(dialect)
        self.sent: list[Send] = []
        self.away = False
        self._lookups: dict[int, asyncio.Future[list[Stored | Lookup]]] = {}
        self._tokens = itertools.count(-1, -1)
        self.clock = clock = Ahead()
        keyring = create_keyring(folder / "keys")
        self._journal = SqliteJournal(
            SqliteJournalSettings(path=folder / "journal.db", min_free_bytes=0), keyring, self._journalled,
            lambda error: pytest.fail(str(error)), clock.utc_ms,
        )  # fmt: skip
        much = Exposure(count_max=100, total_minor_max=10**9, age_ms_max=10**9)
        policy = Policy(
            floor_limit_minor=10**6, terminal=much, card=much, overall=much, entry_modes=frozenset(),
            currencies=frozenset({"156"}), allow_chip_without_issuer=True, allow_track_dropped=True,
        )  # fmt: skip
        engine = Engine(
            EngineSettings(), self.dialect.host, policy, jitter=lambda: 0.5, unencodable=lambda _: "",
            mono_ms=clock.mono_ms(), utc_ms=clock.utc_ms(),
        )  # fmt: skip
        self.conductor = Conductor(
            engine, clock, self._journal, send=self._send, reply=self._reply, reply_operator=lambda _: None,
            alarm=lambda _: None,
        )  # fmt: skip
        hashing = KeyedHash(keyring.fingerprint_key)
        self.iso = Iso8583Listener(
            ListenerSettings(sweep_interval_ms=20), self.dialect, hashing, self.conductor.submit, clock.utc_ms,
            lambda *_: None, tokens=itertools.count(0, 2),
        )  # fmt: skip
        self.http = HttpListener(
            HttpListenerSettings(allow_unauthenticated=True, sweep_interval_ms=20), self.dialect.terminal, hashing,
            self.conductor.submit, self._find, self._load, self._search,
            lambda: "standing-in" if self.away else "online", clock.utc_ms, lambda *_: None,
            tokens=itertools.count(1, 2),
        )  # fmt: skip

    async def start(self) -> None:
        await self._journal.open()
        self.conductor.submit(Connected(True))
        self._iso_address = await self.iso.start()
        self._http_address = await self.http.start()

    async def stop(self) -> None:
        for listener in (self.iso, self.http):
            listener.stop_admitting()
            await listener.drain(5_000)
        await self.conductor.until_quiet(5)
        self.conductor.close()
        await self._journal.close()
        for listener in (self.iso, self.http):
            await listener.close()

    async def terminal(self) -> Terminal:
        reader, writer = await asyncio.open_connection(*self._iso_address)
        return Terminal(self.dialect, reader, writer)

    async def post(self, path: str, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        url = f"http://127.0.0.1:{self._http_address[1]}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=body, headers={"Idempotency-Key": key}) as response,
        ):
            assert PAN not in await response.text()
            return response.status, await response.json(content_type=None)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        url = f"http://127.0.0.1:{self._http_address[1]}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.json(content_type=None)

    def body(self, stan: int, **changed: Any) -> dict[str, Any]:
        """The sale that `tests.terminals.terminal.sale` sends."""
        return {
            "type": "sale", "merchant": MERCHANT, "terminal": TERMINAL, "stan": f"{stan:06}", "amount_minor": 1000,
            "currency": "156", "card": {"pan": PAN}, "local_date": "1121", "batch": "000001", **changed,
        }  # fmt: skip

    def requests(self) -> list[Send]:
        """What the acquirer was asked, probes excepted."""
        return [send for send in self.sent if send.purpose is Purpose.REQUEST]

    def _send(self, send: Send) -> None:
        self.sent.append(send)
        message = send.message
        fields = {n: v for n, v in message.fields.items() if n in (3, 4, 11, 41, 42)}
        fields |= {37: "600000000001", 38: "987654", 39: "00"}
        event = Answered(send.token, answer_mti(message.mti), fields)
        away = NotSent(send.token, "not connected")
        asyncio.get_running_loop().call_soon(self.conductor.submit, away if self.away else event)

    def _reply(self, token: int, answer: Answer, recorded: Transaction | None) -> None:
        (self.http if token % 2 else self.iso).reply(token, answer, recorded)

    def _journalled(self, events: Sequence[JournalEvent]) -> None:
        ours = [event for event in events if isinstance(event, Found) and event.token in self._lookups]
        for found in ours:
            self._lookups.pop(found.token).set_result(list(found.results))
        self.conductor.submit_all([event for event in events if event not in ours])

    async def _find(self, keys: tuple[str, ...]) -> list[Stored | Lookup]:
        token = next(self._tokens)
        self._lookups[token] = asyncio.get_running_loop().create_future()
        future = self._lookups[token]
        self._journal.find(Find(token, keys))
        return await future

    async def _load(self, number: int, key: str) -> Stored | Lookup:
        token = next(self._tokens)
        self._lookups[token] = asyncio.get_running_loop().create_future()
        future = self._lookups[token]
        self._journal.load(Load(token, number, key))
        return (await future)[0]

    async def _search(self, terminal: str, stan: str, after: int, limit: int) -> list[Transaction]:
        listing = Listing(states=frozenset(State), terminal=terminal, after_id=after, limit=limit)
        return [row for row in await self._journal.listing(listing) if stan in ("", row.stan)]


@asynccontextmanager
async def house(dialect: str, folder: Path) -> AsyncIterator[House]:
    made = House(dialect, folder)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def _kept(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def reversals(gateway: House, count: int) -> list[Message]:
    """What was sent to reverse, once it is so many and nothing more is owed."""

    def sent() -> list[Message]:
        return [send.message for send in gateway.sent if send.purpose is Purpose.REVERSAL]

    await until(lambda: len(sent()) >= count and not gateway.conductor.engine.status().lanes_owing, "all are sent")
    return sent()


DIALECTS = ["unionpay", "iso87-binary"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("first", ["iso8583", "http"])
@on_each_loop
async def test_a_sale_sent_over_both_is_one_sale(dialect: str, first: str, tmp_path: Path) -> None:
    async with house(dialect, tmp_path) as gateway, await gateway.terminal() as terminal:
        told: dict[str, tuple[str, str]] = {}
        for protocol in sorted(("iso8583", "http"), key=lambda name: name != first):
            if protocol == "http":
                status, answer = await gateway.post("/v1/transactions", gateway.body(7), "once")
                assert (status, answer["state"]) == (200, "approved")
                told[protocol] = answer["response_code"], answer["approval_code"]
            else:
                terminal.send(sale(gateway.dialect, 7))
                fields = (await terminal.receive()).fields
                told[protocol] = fields[39], fields[38]
        assert told["http"] == told["iso8583"] == ("00", "987654")
        assert len(gateway.requests()) == 1


@pytest.mark.parametrize(
    ("business", "processing_code", "mti", "kind"),
    [
        ("sale", "000000", "0200", "22"),
        ("sale", "200000", "0200", "23"),
        ("authorisation", "030000", "0100", "10"),
        ("authorisation", "200000", "0100", "11"),
        ("advice", "200000", "0220", "25"),
    ],
)
@on_each_loop
async def test_field_60_says_of_what_a_till_sends_which_business_it_is(
    business: str, processing_code: str, mti: str, kind: str, tmp_path: Path
) -> None:
    async with house("unionpay", tmp_path) as gateway:
        body = gateway.body(7, type=business, processing_code=processing_code)
        assert (await gateway.post("/v1/transactions", body, "once"))[0] == 200
        (message,) = [send.message for send in gateway.requests()]
        assert (message.mti, message.fields[3], message.fields[60]) == (mti, processing_code, f"{kind}000001000")


@on_each_loop
async def test_the_same_stan_over_http_with_another_amount_is_422(tmp_path: Path) -> None:
    async with house("unionpay", tmp_path) as gateway, await gateway.terminal() as terminal:
        terminal.send(sale(gateway.dialect, 7))
        assert (await terminal.receive()).fields[39] == "00"
        status, answer = await gateway.post("/v1/transactions", gateway.body(7, amount_minor=999), "other")
        assert (status, answer["type"]) == (422, "urn:holdfast:problem:key-reused")
        assert len(gateway.requests()) == 1


@on_each_loop
async def test_a_sale_over_iso8583_is_reversed_over_http_and_its_own_reversal_then_finds_it_undone(
    tmp_path: Path,
) -> None:
    async with house("unionpay", tmp_path) as gateway, await gateway.terminal() as terminal:
        message = sale(gateway.dialect, 7)
        terminal.send(message)
        assert (await terminal.receive()).fields[39] == "00"
        _, sold = await gateway.post("/v1/transactions", gateway.body(7), "look")
        status, undone = await gateway.post(f"/v1/transactions/{sold['id']}/reversal", {"reason": "no-answer"}, "undo")
        assert (status, undone["response_code"], undone["type"]) == (200, "00", "reversal")
        message.mti = "0400"
        message.fields = {n: v for n, v in message.fields.items() if n in (2, 3, 4, 11, 13, 22, 25, 41, 42, 49, 60)}
        terminal.send(message)
        answer = await terminal.receive()
        assert (answer.mti, answer.fields[39]) == ("0410", "00")
        status, again = await gateway.post("/v1/transactions", gateway.body(7), "look")
        assert (status, again["response_code"]) == (200, "12")
        assert again["state"] in {"reversing", "reversed"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("first", ["iso8583", "http"])
@on_each_loop
async def test_a_sale_that_is_reversed_over_both_again_and_again_is_reversed_once(
    dialect: str, first: str, tmp_path: Path
) -> None:
    async with house(dialect, tmp_path) as gateway, await gateway.terminal() as terminal:
        _, sold = await gateway.post("/v1/transactions", gateway.body(7), "sold")
        path = f"/v1/transactions/{sold['id']}"
        message = sale(gateway.dialect, 7)
        message.mti = "0400"
        message.fields = {n: v for n, v in message.fields.items() if n in (2, 3, 4, 11, 13, 22, 25, 41, 42, 49, 60)}
        if dialect != "unionpay":
            message.fields[90] = f"0200000007{message.fields[13]}{'0' * 28}"
        for protocol in sorted(("iso8583", "http"), key=lambda name: name != first) * 2:
            if protocol == "http":
                status, undone = await gateway.post(f"{path}/reversal", {"reason": "cancelled"}, "undo")
                assert (status, undone["response_code"], undone["type"]) == (200, "00", "reversal")
            else:
                terminal.send(message)
                answer = await terminal.receive()
                assert (answer.mti, answer.fields[39]) == ("0410", "00")
            assert await states_of(gateway, path) == ["undone"]
        assert len(await reversals(gateway, 1)) == 1
        assert (await gateway.post("/v1/transactions", gateway.body(7), "sold"))[1]["response_code"] == "12"


def undated(gateway: House, stan: int, **changed: Any) -> dict[str, Any]:
    """A sale whose key has neither batch nor date."""
    return {name: value for name, value in gateway.body(stan, **changed).items() if name not in {"local_date", "batch"}}


@on_each_loop
async def test_a_sale_of_any_age_is_reversed_by_its_id_and_found_afterwards(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        _, sold = await gateway.post("/v1/transactions", undated(gateway, 7), "sell")
        gateway.clock.ahead_ms = 25 * 3_600_000
        path = f"/v1/transactions/{sold['id']}"
        status, undone = await gateway.post(f"{path}/reversal", {"reason": "cancelled"}, "undo")
        assert (status, undone["response_code"]) == (200, "00")
        status, found = await gateway.get(path)
        assert (status, found["id"]) == (200, sold["id"])
        assert found["state"] in {"reversing", "reversed"}


@on_each_loop
async def test_a_reversal_of_yesterdays_sale_is_none_of_todays_under_the_same_stan(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        _, first = await gateway.post("/v1/transactions", undated(gateway, 7), "monday")
        gateway.clock.ahead_ms = 6 * 3_600_000
        await gateway.post(f"/v1/transactions/{first['id']}/reversal", {"reason": "cancelled"}, "undo monday")
        gateway.clock.ahead_ms = 25 * 3_600_000
        status, second = await gateway.post("/v1/transactions", undated(gateway, 7), "tuesday")
        assert (status, second["response_code"]) == (200, "00")
        assert second["id"] != first["id"]
        path = f"/v1/transactions/{second['id']}"
        status, undone = await gateway.post(f"{path}/reversal", {"reason": "cancelled"}, "undo tuesday")
        assert (status, undone["response_code"]) == (200, "00")
        assert (await gateway.get(path))[1]["state"] in {"reversing", "reversed"}


@pytest.mark.parametrize("amount_minor", [1_000, 2_000])
@on_each_loop
async def test_a_reversal_of_yesterdays_sale_a_moment_before_is_none_of_todays_under_the_same_stan(
    amount_minor: int, tmp_path: Path
) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        _, first = await gateway.post("/v1/transactions", undated(gateway, 7, amount_minor=1_000), "monday")
        gateway.clock.ahead_ms = 24 * 3_600_000 + 60_000
        await gateway.post(f"/v1/transactions/{first['id']}/reversal", {"reason": "cancelled"}, "undo monday")
        gateway.clock.ahead_ms += 240_000
        _, second = await gateway.post("/v1/transactions", undated(gateway, 7, amount_minor=amount_minor), "tuesday")
        assert (second["state"], second["id"] != first["id"]) == ("approved", True)
        gateway.clock.ahead_ms += 300_000
        path = f"/v1/transactions/{second['id']}"
        for key in ("undo tuesday", "undo tuesday", "undo it once more"):
            status, undone = await gateway.post(f"{path}/reversal", {"reason": "cancelled"}, key)
            assert (status, undone["response_code"]) == (200, "00")
        assert (await gateway.get(path))[1]["state"] in {"reversing", "reversed"}
        _, page = await gateway.get("/v1/transactions?terminal=T0000001&stan=000007")
        assert [each["type"] for each in page["transactions"]] == ["sale", "reversal"] * 2


async def twice_the_same_stan(gateway: House) -> tuple[str, str]:
    """Two sales under one key that has no date, a day apart; where each of them is to be found."""
    _, first = await gateway.post("/v1/transactions", undated(gateway, 7), "monday")
    gateway.clock.ahead_ms += 25 * 3_600_000
    _, second = await gateway.post("/v1/transactions", undated(gateway, 7), "tuesday")
    assert (first["state"], second["state"], first["id"] != second["id"]) == ("approved", "approved", True)
    return f"/v1/transactions/{first['id']}", f"/v1/transactions/{second['id']}"


async def states_of(gateway: House, *paths: str) -> list[str]:
    """How they stand, those that are being undone or are undone as one word."""
    told = [await gateway.get(path) for path in paths]
    assert [(status, answer["id"]) for status, answer in told] == [(200, path.rpartition("/")[2]) for path in paths]
    return ["undone" if answer["state"] in {"reversing", "reversed"} else answer["state"] for _, answer in told]


@on_each_loop
async def test_a_sale_whose_stan_has_come_again_is_shown_and_reversed_by_its_id_and_no_other(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        first, second = await twice_the_same_stan(gateway)
        assert await states_of(gateway, first, second) == ["approved", "approved"]
        for key in ("undo monday", "undo monday", "undo monday once more"):
            status, undone = await gateway.post(f"{first}/reversal", {"reason": "cancelled"}, key)
            assert (status, undone["response_code"], undone["type"]) == (200, "00", "reversal")
            assert await states_of(gateway, first, second) == ["undone", "approved"]
        assert (await gateway.get(f"/v1/transactions/{undone['id']}"))[1] == undone
        status, _ = await gateway.post(f"{second}/reversal", {"reason": "cancelled"}, "undo tuesday")
        assert (status, await states_of(gateway, first, second)) == (200, ["undone", "undone"])
        _, page = await gateway.get("/v1/transactions?terminal=T0000001&stan=000007")
        assert [each["type"] for each in page["transactions"]] == ["sale", "sale", "reversal", "reversal"]


@on_each_loop
async def test_the_older_of_two_sales_is_reversed_by_its_id_also_after_the_newer_one(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        first, second = await twice_the_same_stan(gateway)
        await gateway.post(f"{second}/reversal", {"reason": "cancelled"}, "undo tuesday")
        assert await states_of(gateway, first, second) == ["approved", "undone"]
        status, undone = await gateway.post(f"{first}/reversal", {"reason": "cancelled"}, "undo monday")
        assert (status, undone["response_code"]) == (200, "00")
        assert await states_of(gateway, first, second) == ["undone", "undone"]
        sent = [reversal.fields[90] for reversal in await reversals(gateway, 2)]
        assert len(set(sent)) == len(sent) == 2  # each names its own original


@on_each_loop
async def test_the_idempotency_key_of_one_reversal_does_not_pass_for_that_of_another_sale(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        first, second = await twice_the_same_stan(gateway)
        assert (await gateway.post(f"{first}/reversal", {"reason": "cancelled"}, "undo"))[0] == 200
        status, told = await gateway.post(f"{second}/reversal", {"reason": "cancelled"}, "undo")
        assert (status, told["type"]) == (422, "urn:holdfast:problem:key-reused")
        assert await states_of(gateway, first, second) == ["undone", "approved"]


@on_each_loop
async def test_a_sequence_under_another_key_is_as_unknown_as_one_that_does_not_exist(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        await gateway.post("/v1/transactions", undated(gateway, 7, terminal="T0000002"), "of another terminal")
        _, ours = await gateway.post("/v1/transactions", undated(gateway, 7), "ours")
        key = f"H|{MERCHANT}|{TERMINAL}|2|000007"
        number = next(each for each in range(1, 99) if named(f"{key}|{each}") == ours["id"])
        made = [f"{key}|{each}" for each in (1, 2, 3, 999, 0, 10**30) if each != number]
        made += [f"{key}|0{number}", f"{key}|+{number}", f"{key}|{number} ", key, f"{key}|{number}|"]
        made += [f"H|M00000000000009|{TERMINAL}|2|000007|{number}", f"H|{MERCHANT}|{TERMINAL}|1|000007|{number}"]
        told = [await gateway.get(f"/v1/transactions/{named(text)}") for text in made]
        told += [await gateway.post(f"/v1/transactions/{named(text)}/reversal", {"reason": "cancelled"}, text)
                 for text in made]  # fmt: skip
        assert [each for each in told if each != told[0]] == []
        assert (told[0][0], told[0][1]["type"]) == (404, "urn:holdfast:problem:transaction-unknown")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("first", ["authorisation", "sale"])
@on_each_loop
async def test_an_authorisation_and_a_sale_under_one_stan_have_each_a_reversal_of_its_own(
    dialect: str, first: str, tmp_path: Path
) -> None:
    async with house(dialect, tmp_path) as gateway:
        paths = []
        for business in sorted(("authorisation", "sale"), key=lambda name: name != first):
            _, told = await gateway.post("/v1/transactions", gateway.body(7, type=business), business)
            paths.append(f"/v1/transactions/{told['id']}")
        for path, left in zip(paths, (["undone", "approved"], ["undone", "undone"]), strict=True):
            for key in (f"undo {path}", f"undo {path}", f"undo {path} once more"):
                status, undone = await gateway.post(f"{path}/reversal", {"reason": "cancelled"}, key)
                assert (status, undone["response_code"]) == (200, "00")
                assert await states_of(gateway, *paths) == left
        assert len(await reversals(gateway, 2)) == 2


@on_each_loop
async def test_a_reversal_over_iso8583_passes_for_none_of_another_with_its_stan(tmp_path: Path) -> None:
    async with house("unionpay", tmp_path) as gateway, await gateway.terminal() as terminal:
        _, held = await gateway.post("/v1/transactions", gateway.body(7, type="authorisation"), "hold")
        message = sale(gateway.dialect, 7)
        terminal.send(message)
        assert (await terminal.receive()).fields[39] == "00"
        message.mti = "0400"
        message.fields = {n: v for n, v in message.fields.items() if n in (2, 3, 4, 11, 13, 22, 25, 41, 42, 49, 60)}
        terminal.send(message)
        assert (await terminal.receive()).fields[39] == "00"
        path = f"/v1/transactions/{held['id']}"
        assert await states_of(gateway, path) == ["approved"]
        status, undone = await gateway.post(f"{path}/reversal", {"reason": "cancelled"}, "undo")
        assert (status, undone["response_code"]) == (200, "00")
        assert await states_of(gateway, path) == ["undone"]


def named(text: str) -> str:
    """An id that stands for this text."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@on_each_loop
async def test_while_the_acquirer_is_away_a_sale_over_http_is_approved_offline(tmp_path: Path) -> None:
    async with house("unionpay", tmp_path) as gateway:
        gateway.away = True
        gateway.conductor.submit(Connected(False))
        for _ in range(2):
            status, answer = await gateway.post("/v1/transactions", gateway.body(7), "once")
            assert (status, answer["state"], answer["offline"]) == (200, "approved-offline", True)
            assert answer["approval_code"]


@pytest.mark.parametrize("away", [False, True])
@on_each_loop
async def test_the_core_tells_which_row_it_answers_of_so_that_nothing_is_read_back(away: bool, tmp_path: Path) -> None:
    async with house("unionpay", tmp_path) as gateway:
        gateway.away = away
        gateway.conductor.submit(Connected(not away))
        told = [await gateway.post("/v1/transactions", gateway.body(7), "once") for _ in range(2)]
        assert (told[0][0], told[0]) == (200, told[1])
        assert next(gateway._tokens) == -1  # no look-up has had one


@on_each_loop
async def test_a_sale_without_a_stan_is_one_sale_by_its_key_and_is_reversed_as_one(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        body = gateway.body(7)
        del body["stan"]
        (status, first), (_, again) = [await gateway.post("/v1/transactions", body, "once") for _ in range(2)]
        assert (status, first["state"], first == again) == (200, "approved", True)
        assert len(gateway.requests()) == 1
        assert gateway.requests()[0].message.fields[11] == first["stan"]
        status, refused = await gateway.post("/v1/transactions", {**body, "amount_minor": 1}, "once")
        assert (status, refused["type"]) == (422, "urn:holdfast:problem:key-reused")
        status, undone = await gateway.post(f"/v1/transactions/{first['id']}/reversal", {}, "undo")
        assert (status, undone["response_code"], undone["stan"]) == (200, "00", first["stan"])
        assert len(gateway.requests()) == 1


@on_each_loop
async def test_sales_without_a_stan_approved_offline_have_each_its_own_reference(tmp_path: Path) -> None:
    async with house("iso87-binary", tmp_path) as gateway:
        gateway.away = True
        gateway.conductor.submit(Connected(False))
        body = gateway.body(7)
        del body["stan"]
        told = [(await gateway.post("/v1/transactions", body, key))[1] for key in ("a", "b", "a")]
        assert [answer["state"] for answer in told] == ["approved-offline"] * 3
        assert [answer["rrn"][-6:] for answer in told] == [answer["stan"] for answer in told]
        assert (told[0]["rrn"], told[0]["rrn"] != told[1]["rrn"]) == (told[2]["rrn"], True)


@pytest.mark.timeout(30)  # of what is asked for again and again without end
@on_each_loop
async def test_a_key_whose_assignable_stans_repeat_gets_one_that_is_free(tmp_path: Path) -> None:
    key, first = "till-281302", 852_206  # the first and the second are the same for this key
    async with house("iso87-binary", tmp_path) as gateway, await gateway.terminal() as terminal:
        terminal.send(sale(gateway.dialect, first))
        assert (await terminal.receive()).fields[39] == "00"
        body = gateway.body(7)
        del body["stan"]
        _, told = await gateway.post("/v1/transactions", {**body, "local_date": "1121"}, key)
        assert (told.get("state"), told.get("stan")) == ("approved", "921903")


@on_each_loop
async def test_a_sale_without_a_stan_in_a_closed_batch_is_not_shown_as_the_one_that_has_its_first_stan(
    tmp_path: Path,
) -> None:
    async with house("unionpay", tmp_path) as gateway, await gateway.terminal() as terminal:
        terminal.send(sale(gateway.dialect, 852_206))
        assert (await terminal.receive()).fields[39] == "00"
        fields = {11: "000008", 41: TERMINAL, 42: MERCHANT, 48: totals_text(Totals(1_000, 1)), 49: "156"}
        terminal.send(Message("0500", {**fields, 60: "00000001201"}, bytes(5), bytes(6)))
        assert (await terminal.receive()).fields[39] == "00"
        body = gateway.body(7)
        del body["stan"]
        status, told = await gateway.post("/v1/transactions", body, "till-281302")
        assert (status, told["type"]) == (503, "urn:holdfast:problem:not-recorded")


@on_each_loop
async def test_an_idempotency_key_of_any_form_is_kept_and_found(tmp_path: Path) -> None:
    async with house("unionpay", tmp_path) as gateway:
        for number, key in enumerate(("x" * 255, "a|b|c", f"sale-{PAN}", '"quoted \\"one\\""', "%s{0}")):
            (status, first), (_, again) = [
                await gateway.post("/v1/transactions", gateway.body(number), key) for _ in range(2)
            ]
            assert (status, first) == (200, again)
            status, _ = await gateway.post("/v1/transactions", gateway.body(number, amount_minor=5), key)
            assert status == 422
        assert len(gateway.requests()) == 5
    assert PAN.encode() not in _kept(tmp_path)
