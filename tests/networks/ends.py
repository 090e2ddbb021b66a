"""How transactions ended: each once, and as its terminal was told and the acquirer's ledger has it (INV-3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.history import APPROVED_CODES, Defect, Verdict
from bench.proxy import Fault, Way
from bench.records import Owed, TerminalEvent, read_lines, transaction_key
from bench.till import MERCHANT
from gateway.core.transaction import PARKED_FROM
from tests.networks.ambiguity import MessageKey
from tests.networks.scene import Row, Scene


@dataclass(slots=True)
class Seen:
    """What came about, and how often.

    Attributes:
        faults: of originals, by kind.
        ends: of transactions.
        reasons: for which some are parked.
        approved_late: approved all the same after an answer that came too late.
        late_answers: that the gateway heard.
    """

    faults: Counter[tuple[Way, Fault]] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    approved_late: int = 0
    late_answers: int = 0

    def add(self, other: Seen) -> None:
        """Count what another one has seen as well."""
        self.faults += other.faults
        self.ends += other.ends
        self.reasons += other.reasons
        self.approved_late += other.approved_late
        self.late_answers += other.late_answers


def told_of(history: Iterable[TerminalEvent]) -> tuple[dict[str, str], set[str]]:
    """By key, the code that its terminal was told; and the keys whose reversal was told to be taken."""
    told: dict[str, str] = {}
    taken_back: set[str] = set()
    for event in history:
        if event.event != "answered":
            continue
        if event.business == "sale":
            assert told.setdefault(event.key, event.response) == event.response, event
        elif event.business == "reversal" and event.response in APPROVED_CODES:
            taken_back.add(event.original)
    return told, taken_back


def judge(
    name: str,
    scene: Scene,
    rows: list[Row],
    verdict: Verdict,
    queue: list[Owed],
    *,
    by_hand: set[str],
    hit: dict[MessageKey, list[Fault]],
) -> Seen:
    """Check that each transaction has one end, and that its terminal and the acquirer's ledger agree with it.

    Args:
        name: of the run, for whoever reads of a failure.
        queue: what the gateway lists as owed, with reasons.
        by_hand: keys of what an operator cancelled.
        hit: faults by message.
    """
    host, seen = scene.shop.host, Seen()
    told, taken_back = told_of(read_lines(scene.history.path, TerminalEvent))
    acts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in host.recent:
        acts[event.original or event.key][event.act] += 1
    late = {
        transaction_key(MERCHANT, key[1], key[2])
        for key, faults in hit.items()
        if key[0] != "4" and Fault.LATE in faults
    }
    assert len({row.key for row in rows}) == len(rows) == verdict.transactions, name
    assert told.keys() | taken_back <= {row.key for row in rows}, name
    for row in rows:
        done, code, net = acts[row.key], told.get(row.key, ""), host.books.net(row.key)
        approved = code in APPROVED_CODES
        where = f"{name}: {row}, told {code!r}, ledger {dict(done)}"
        match row.state:
            case "approved":
                assert (done["booked"], done["reversed"], net) == (1, 0, 1), where
                assert approved, where
                assert row.key not in taken_back, where
                seen.approved_late += row.key in late
            case "declined" | "reversed":
                assert net == 0, where
                assert done["booked"] == done["reversed"] <= 1, where
                assert done["booked"] == 0 or row.state == "reversed", where
                assert not approved or row.key in taken_back, where
            case "cancelled":
                assert not done, where
                assert (row.key in taken_back) is not (row.key in by_hand), where
            case "parked":
                assert row.reason, where
                assert done["booked"] <= 1, where
                reason, _, before = row.reason.partition(PARKED_FROM)
                assert approved is (before == "standin.approved"), where  # else it is a request, or a reversal
                seen.reasons[reason] += 1
            case _:
                raise AssertionError(f"no end: {where}")
        seen.ends[row.state] += 1
    parked = {row.key for row in rows if row.state == "parked"}
    expected = {Defect.UNSETTLED: parked, Defect.LOST: by_hand}
    wrong = [found for found in verdict.findings if found.key not in expected.get(found.defect, set())]
    assert not wrong, f"{name}: {wrong[:10]}"
    assert {owed.key for owed in queue if owed.reason} == parked, f"{name}: persons are asked about {queue}"
    return seen
