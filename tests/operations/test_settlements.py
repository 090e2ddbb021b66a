"""Two people settle a damaged record: it counts as open no more, keeps no key, and is told of for good."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.balancing import Balancing, Sums
from gateway.audit.tracing import trace
from gateway.audit.verifying import Wanted, verify
from gateway.core.effects import Load, Write
from gateway.core.events import Existing, Found, Lookup
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer
from gateway.journal.keyring import KeyPurpose
from gateway.journal.log_reader import LogReader
from gateway.journal.port import Listing
from gateway.operations.approvals import (
    LIFETIME_MS,
    ApprovalRefused,
    Approvals,
    approving_text,
    asking_text,
    new_request,
    requests_file,
    sign,
)
from gateway.operations.settlements import SETTLE_DAMAGED, Settlements, damaged_page, subject_of
from protocol.journal_entry import decode_entry
from tests.journal.rig import evolved, sale
from tests.journal.test_damage import overwrite
from tests.operations.test_keys import PEOPLE, Desk, play, refusing_requests
from tests.operations.test_keys_needed import ROW, next_day, put_aside


def office(desk: Desk) -> Settlements:
    approvals = Approvals(requests_file(desk.folder), desk.approvers, lambda: desk.now_ms)
    return Settlements(desk.journal, approvals, desk.keys.keyring.name)


async def ask(desk: Desk, number: int, who: str = "ann") -> Any:
    request = new_request(
        SETTLE_DAMAGED, subject_of(number), who=who, why="booked by hand, reference 7",
        gateway=desk.keys.keyring.name, now_ms=desk.now_ms,
    )  # fmt: skip
    await office(desk).ask(request, sign(PEOPLE[who], asking_text(request)))
    return request


async def approve(desk: Desk, request: Any, who: str = "bob") -> str:
    return (await office(desk).approve(request.id, who, sign(PEOPLE[who], approving_text(request, who)))).text


async def settled(desk: Desk, number: int) -> str:
    return await approve(desk, await ask(desk, number))


def told(desk: Desk) -> list[tuple[int, dict[str, Any]]]:
    with LogReader(desk.path) as reader:
        found = [decode_entry(each.body) for each in reader.entries(0, reader.size)]
    return [(each.sequence, json.loads(each.detail)) for each in found if each.kind == EntryKind.DAMAGE_SETTLED]


def test_one_that_is_settled_is_open_no_more_and_is_listed_with_when_and_by_which_entry(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await put_aside(desk, number)
        desk.now_ms += 5_000
        assert "is settled" in await settled(desk, number)
        ((sequence, detail),) = told(desk)
        assert (detail["transaction"], detail["damage"], detail["who"]) == (number, ["row"], "ann, bob")
        assert detail["why"] == "booked by hand, reference 7"
        assert detail["evidence"]["asking"]
        assert detail["evidence"]["approving"]
        for _ in ("as it is", "opened again"):
            health = await desk.journal.health()
            assert (health.quarantined, health.settled) == (0, 1)
            (listed,) = damaged_page(await desk.journal.put_aside(-1, 10), 10).records
            assert (listed.id, listed.damage, listed.settled_in) == (number, ["row"], sequence)
            assert listed.settled is not None
            assert listed.settled > listed.since
            await desk.close()
            await desk.open()
        assert (await desk.keys.listed()).requests == []

    play(tmp_path, story)


def test_one_that_is_settled_is_told_so_where_only_the_list_of_requests_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await put_aside(desk, number)
        request = await ask(desk, number)
        with monkeypatch.context() as patched:
            refusing_requests(patched, after=1)
            assert "is settled, as entry" in await approve(desk, request)
        assert [detail["transaction"] for _, detail in told(desk)] == [number]

    play(tmp_path, story)


def test_one_that_is_settled_keeps_no_key_and_its_sensitive_data_is_gone(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await next_day(desk)
        await put_aside(desk, number)
        await desk.keys.rotate(KeyPurpose.ACCOUNT, "ann", "why")
        assert desk.state(2) == "retired"
        assert (await desk.journal.key_needs()).oldest_quarantined == number
        await settled(desk, number)
        needs = await desk.journal.key_needs()
        assert (needs.oldest_quarantined, needs.sensitive, needs.sensitive_quarantined) == (0, {}, [])
        await desk.keys.turn()
        assert desk.state(2) == "destroyed"
        await desk.destroyed_by_two(1)
        assert desk.state(1) == "destroyed"

    play(tmp_path, story)


def test_a_mark_that_no_entry_bears_out_lets_no_key_go_and_is_told_by_an_audit(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        first, second = await desk.sell(), await desk.sell()
        await put_aside(desk, first)
        await settled(desk, first)
        overwrite(desk.path, ROW, second)
        await load(desk, second)
        ((sequence, _),) = told(desk)
        overwrite(desk.path, "UPDATE quarantine SET id = ? WHERE what LIKE 'settled%'", second)
        assert (await desk.journal.key_needs()).oldest_quarantined == first
        assert [each.settled_in for each in await desk.journal.put_aside(-1, 10)] == [0, 0]
        verdict = verify(Wanted(journal=desk.path), lambda *_: None)
        assert any(f"record {second} was settled in entry {sequence}" in each.text for each in verdict.findings)

    play(tmp_path, story)


async def load(desk: Desk, number: int) -> Any:
    desk.token += 1
    desk.journal.load(Load(desk.token, number))
    await desk.journal.note(EntryKind.MAINTENANCE, "ann: the read before this is done")
    while (found := next((e for e in desk.events if isinstance(e, Found) and e.token == desk.token), None)) is None:
        await desk.journal.health()
    await desk.journal.note(EntryKind.MAINTENANCE, "ann: what was met damaged is in quarantine")
    return found.results[0]


def test_a_retry_of_one_that_is_settled_is_never_taken_for_new_and_new_damage_leaves_it_settled(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell(sensitive=False)
        key = f"k|{desk.token:06}"
        await put_aside(desk, number)
        await settled(desk, number)
        desk.token += 1
        desk.journal.write(Write(desk.token, (sale(key),)))
        await desk.journal.note(EntryKind.MAINTENANCE, "ann: that is answered")
        assert [e for e in desk.events if isinstance(e, Existing)] == [Existing(desk.token, None)]
        overwrite(desk.path, "DELETE FROM tx WHERE id = ?", number)
        assert await load(desk, number) is Lookup.DAMAGED
        health = await desk.journal.health()
        assert (health.quarantined, health.settled) == (0, 1)
        assert (await desk.journal.key_needs()).oldest_quarantined == 0

    play(tmp_path, story)


def test_an_audit_still_tells_the_damage_and_that_it_was_settled_by_which_entry(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await put_aside(desk, number)
        before = verify(Wanted(journal=desk.path), lambda *_: None)
        await settled(desk, number)
        ((sequence, _),) = told(desk)
        verdict = verify(Wanted(journal=desk.path), lambda *_: None)
        assert not verdict.whole
        assert verdict.found == before.found
        (finding,) = [each for each in verdict.findings if each.transaction == number]
        assert finding.text.endswith(f"(settled by two people in entry {sequence})")
        assert [(each.transaction, each.entry, each.who) for each in verdict.settled] == [
            (number, sequence, "ann, bob")
        ]

    play(tmp_path, story)


def test_an_auditor_hears_of_quarantine_and_settlement_in_the_trace_and_the_sums(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        with LogReader(desk.path) as reader:
            assert (trace(reader, number, lambda *_: None).damage, _sums(reader).settled) == ([], 0)
            owed = _sums(reader).owed
        await put_aside(desk, number)
        with LogReader(desk.path) as reader:
            life = trace(reader, number, lambda *_: None)
            assert (life.damage, life.settled, life.owes) == (["row"], None, "an advice")
        await settled(desk, number)
        ((sequence, _),) = told(desk)
        with LogReader(desk.path) as reader:
            life = trace(reader, number, lambda *_: None)
            sums = _sums(reader)
        assert (life.damage, life.owes) == (["row"], "nothing")
        assert life.settled is not None
        assert (life.settled.entry, life.settled.who) == (sequence, "ann, bob")
        assert life.settled.why == "booked by hand, reference 7"
        assert (sums.owed, sums.settled, sums.difference) == (0, owed, 0)
        assert sums.settled == sums.told > 0

    play(tmp_path, story)


def _sums(reader: LogReader) -> Sums:
    (sums,) = Balancing(reader, lambda *_: None).run((), 10).totals
    return sums


def test_a_settlement_that_two_approvers_have_not_signed_is_told_by_an_audit(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await put_aside(desk, number)
        detail = {"what": "settled", "transaction": number, "damage": [], "who": "x, y", "why": "z", "evidence": {}}
        await desk.journal.note(EntryKind.DAMAGE_SETTLED, json.dumps(detail))
        verdict = verify(Wanted(journal=desk.path), lambda *_: None)
        assert verdict.found["not-approved"] == 1

    play(tmp_path, story)


def test_one_person_a_stranger_and_a_late_approval_settle_nothing(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await put_aside(desk, number)
        request = await ask(desk, number)
        with pytest.raises(ApprovalRefused, match="another person must approve"):
            await approve(desk, request, "ann")
        with pytest.raises(ApprovalRefused, match="not signed by the key of bob"):
            await office(desk).approve(request.id, "bob", sign(PEOPLE["ann"], approving_text(request, "bob")))
        with pytest.raises(ApprovalRefused, match="asked for already"):
            await ask(desk, number, "bob")
        desk.now_ms += LIFETIME_MS
        with pytest.raises(ApprovalRefused):
            await approve(desk, request)
        assert told(desk) == []
        assert (await desk.journal.health()).quarantined == 1

    play(tmp_path, story)


def test_without_two_approvers_nothing_is_settled(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await put_aside(desk, number)
        with pytest.raises(ApprovalRefused, match="needs two people"):
            await ask(desk, number)

    play(tmp_path, story, approvers=("ann",))


def test_what_is_not_damaged_of_no_transaction_or_settled_already_is_refused(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number, whole = await desk.sell(), await desk.sell()
        await put_aside(desk, number)
        with pytest.raises(ApprovalRefused, match=f"record {whole} is not in quarantine"):
            await ask(desk, whole)
        with pytest.raises(ApprovalRefused, match="of no transaction"):
            await ask(desk, 0)
        await settled(desk, number)
        ((sequence, _),) = told(desk)
        with pytest.raises(ApprovalRefused, match=f"settled already, in entry {sequence}"):
            await ask(desk, number)

    play(tmp_path, story)


def test_an_approval_that_is_put_back_settles_nothing_twice(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await put_aside(desk, number)
        request = await ask(desk, number)
        kept = requests_file(desk.folder).read_bytes()
        await approve(desk, request)
        requests_file(desk.folder).write_bytes(kept)
        with pytest.raises(ApprovalRefused, match="settled already"):
            await approve(desk, request)
        assert len(told(desk)) == 1
        assert (await desk.keys.listed()).requests == []

    play(tmp_path, story)


def healed_by_its_answer(desk: Desk, row: Any) -> None:
    desk.token += 1
    desk.journal.write(Write(desk.token, (evolved(row, State.PARKED, answer=Answer("0230", {39: "96"})),)))


@pytest.mark.parametrize("when", ["before it is asked", "before it is approved", "in the very commit"])
def test_one_that_has_healed_is_refused_and_goes_on_owing(tmp_path: Path, when: str) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell(sensitive=False)
        row = next(e for e in await desk.journal.listing(Listing(states=frozenset(State))) if e.id == number)
        await put_aside(desk, number)
        if when == "before it is asked":
            healed_by_its_answer(desk, row)
            await desk._committed()
            with pytest.raises(ApprovalRefused, match=f"record {number} has healed"):
                await ask(desk, number)
        else:
            request = await ask(desk, number)
            if when == "before it is approved":
                healed_by_its_answer(desk, row)
                await desk._committed()
            else:
                real = desk.journal.note

                async def later(kind: EntryKind, detail: str) -> int:
                    healed_by_its_answer(desk, row)
                    return await real(kind, detail)

                desk.journal.note = later  # type: ignore[method-assign]
            with pytest.raises(ApprovalRefused, match=f"record {number} has healed"):
                await approve(desk, request)
        assert (await desk.journal.health()).settled == 0
        assert (await desk.journal.health()).counts[State.PARKED] == 1
        assert (await desk.journal.key_needs()).oldest_unsettled == number

    play(tmp_path, story)


def test_one_of_which_only_a_list_was_wrong_is_refused(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        number = await desk.sell()
        await desk.close()
        with sqlite3.connect(desk.path) as connection:  # as the writer would have put it there
            connection.execute("INSERT INTO quarantine VALUES (?, 'lookup', 0)", (number,))
        connection.close()
        await desk.open()
        with pytest.raises(ApprovalRefused, match="only a list of record"):
            await ask(desk, number)

    play(tmp_path, story)


def test_a_journal_that_was_begun_before_there_were_settlements_is_read(tmp_path: Path) -> None:
    """A head without the two newest fields."""
    import msgspec  # noqa: PLC0415

    from gateway.journal.schema import Head  # noqa: PLC0415

    old = msgspec.msgpack.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(Head(7, [0] * 11, 2)))[:-2])
    head = msgspec.msgpack.decode(old, type=Head)
    assert (head.sequence, head.quarantined, head.settled, head.closed) == (7, 2, 0, 0)
