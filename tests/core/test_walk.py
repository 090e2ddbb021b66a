"""Seeded walks: terminals, an acquirer of changing moods, outages, crashes, clock jumps. Healed, all is settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from gateway.core.events import Connected, OperatorAct
from gateway.core.lifecycle import State
from gateway.core.link import LinkSettings
from gateway.core.settling import closing_key
from gateway.core.standin import Policy
from gateway.core.totals import counted, totals_of
from gateway.core.transaction import Kind
from gateway.core.work import EngineSettings
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.rules import HostRules, TerminalRules
from protocol.settlement import Detail, Totals, details_text, totals_text
from tests.core import acquirer
from tests.core.world import MASTERCARD, UNIONPAY, VISA, World

SEEDS = 300
STEPS = 200
CARDS = (VISA, MASTERCARD, UNIONPAY)
MOODS = (
    *[acquirer.APPROVES] * 6,
    acquirer.DECLINES,
    acquirer.SILENT_BOOKED,
    acquirer.SILENT_LOST,
    acquirer.LATE,
    acquirer.LATE_DECLINE,
    acquirer.REFUSES,
    acquirer.BREAKS_BOOKED,
    acquirer.answers("96"),
    acquirer.answers("91", books=True),
    acquirer.answers("68", books=True),
    acquirer.answers("94"),
    acquirer.answers("30"),
    acquirer.answers("25"),
    acquirer.answers(""),
    acquirer.WRONG_MAC_BOOKED,
    acquirer.WRONG_MAC_LOST,
    acquirer.answers("95"),
)


@dataclass(slots=True)
class Till:
    """One terminal: what it has sent, so that it can send it again or take it back."""

    number: int
    stan: int = 0
    batch: int = 1
    sent: list[tuple[str, dict[int, str]]] = field(default_factory=list)


class Walk:
    """One seeded walk."""

    def __init__(self, seed: int) -> None:
        unionpay = seed % 3 == 0
        dialect = load_dialect("unionpay")
        self.rules = dialect.terminal if unionpay else TerminalRules()
        host = dialect.host if unionpay else HostRules(repeat_request=seed % 3 == 1)
        settings = EngineSettings(
            attempts_max=6,
            backoff_max_ms=20_000,
            rate_per_s=seed % 2 * 5,
            heads_read_ahead=1 + seed % 4,
            in_flight_max=12,
            lane_waiting_max=4,
            link=LinkSettings(window_max=4),
        )
        self.world = World(seed=seed, settings=settings, host=host, rules=self.rules, policy=Policy(
            floor_limit_minor=2_000, allow_track_dropped=True,
        ))  # fmt: skip
        self.unionpay = unionpay
        self.random = self.world.random
        self.tills = [Till(number) for number in range(1, 5)]

    def fields(self, till: Till, *, amount: int, card: str) -> dict[int, str]:
        """A sale's fields."""
        till.stan += 1
        fields = {
            2: card, 3: "000000", 4: f"{amount:012}", 11: f"{till.stan:06}", 22: "012", 25: "00",
            41: f"TERM000{till.number}", 42: "MERCHANT0000001", 49: "156",
        }  # fmt: skip
        return fields | ({60: f"22{till.batch:06}"} if self.unionpay else {7: "1121120000", 13: "1121"})

    def sale(self) -> None:
        """A request, or now and then an advice."""
        till = self.random.choice(self.tills)
        mti = self.random.choice(("0200", "0200", "0200", "0100", "0220"))
        fields = self.fields(till, amount=self.random.randint(1, 2_300), card=self.random.choice(CARDS))
        till.sent.append((mti, fields))
        if self.random.random() < 0.9:  # else the terminal's message is lost: its reversal comes alone
            self.world.ask(mti, fields)

    def retry(self) -> None:
        """The same again."""
        if (till := self.random.choice(self.tills)).sent:
            mti, fields = self.random.choice(till.sent[-5:])
            self.world.ask(mti, fields)

    def reversal(self) -> None:
        """One of the last is taken back."""
        if (till := self.random.choice(self.tills)).sent:
            mti, original = self.random.choice(till.sent[-4:])
            if mti[1] not in "12":
                return
            fields = dict(original)
            if not self.unionpay:
                till.stan += 1
                fields |= {11: f"{till.stan:06}", 90: f"{mti}{original[11]}{original[7]}" + "0" * 22}
            till.sent.append(("0400", fields))
            self.world.ask("0400", fields)

    def settle(self) -> None:
        """A terminal closes its batch with totals that are right or not, uploads it, or signs on for the next."""
        till = self.random.choice(self.tills)
        if not self.unionpay:
            return
        till.stan += 1
        fields = {11: f"{till.stan:06}", 41: f"TERM000{till.number}", 42: "MERCHANT0000001", 49: "156"}
        prefix = f"B{till.batch:06}|MERCHANT0000001|TERM000{till.number}|"
        rows = [row.stored for row in self.world.journal.rows.values() if row.transaction.key.startswith(prefix)]
        rows = counted(rows, self.rules, self.world.host.approved_codes)
        way = self.random.choice(("0500", "0500", "0320", "end", "0800"))
        mti = {"end": "0320"}.get(way, way)
        fields[60] = f"00{till.batch:06}" + {"0800": "003", "end": "202"}.get(way, "201")
        if way == "0500":
            wrong = Totals(self.random.choice((0, 0, 0, 1)))
            fields[48] = totals_text(totals_of(rows, self.rules) + wrong)
        elif way == "0320":
            some = self.random.sample(rows, min(len(rows), self.random.randint(1, 8)))
            fields[48] = details_text(
                [Detail(row.transaction.stan, row.transaction.amount_minor, row.request.fields[2]) for row in some]
            )
        elif way == "0800":
            till.batch += closing_key(prefix[:-1]) in self.world.journal.by_key
        if mti != "0800":
            till.sent.append((mti, fields))
        self.world.ask(mti, fields)

    def time(self) -> None:
        """Time passes."""
        self.world.advance(self.random.choice((1, 50, 1_000, 5_000, 16_000, 40_000)), run=self.random.random() < 0.8)

    def mood(self) -> None:
        """The acquirer feels otherwise."""
        self.world.acquirer.mood = self.random.choice(MOODS)

    def mixed(self) -> None:
        """Each of the next messages meets another mood."""
        self.world.acquirer.moods.extend(self.random.choices(MOODS, k=4))

    def outage(self) -> None:
        """The connection goes, or comes."""
        world = self.world
        world.connected = not world.connected
        world.acquirer.alive = self.random.random() < 0.8
        world.step(Connected(world.connected))

    def crash(self) -> None:
        """The power goes; what waited for the disk is there afterwards, or is not."""
        self.world.crash_and_restart(keep=self.random.choice((0, 1, 100)), up=False)

    def disk(self) -> None:
        """The disk is full, or has room again."""
        self.world.journal.full = not self.world.journal.full and self.random.random() < 0.5

    def clock(self) -> None:
        """Somebody sets the clock."""
        self.world.jump(self.random.choice((-3_600_000, 3_600_000, -1_000, 60_000)))

    def person(self) -> None:
        """An operator does something to something."""
        rows = self.world.journal.rows
        if not rows:
            return
        chosen = self.random.choice(list(rows))
        # To cancel what is parked is to say that it was never booked: here nobody knows, so nobody does.
        acts = [OperatorAct.RELEASE, OperatorAct.VOID]
        if rows[chosen].transaction.state is State.STORED:
            acts.append(OperatorAct.CANCEL)
        self.world.command(self.random.choice(acts), chosen)

    def maintenance(self) -> None:
        """A window is opened or closed."""
        self.world.command(self.random.choice((OperatorAct.MAINTENANCE_ON, OperatorAct.MAINTENANCE_OFF)))

    def walk(self) -> None:
        """The steps, then healing."""
        ways: list[Callable[[], None]] = [
            *[self.sale] * 8, *[self.retry] * 3, *[self.reversal] * 3, *[self.time] * 4, self.settle, self.mood,
            self.mixed, self.outage, self.crash, self.disk, self.clock, self.person, self.maintenance,
        ]  # fmt: skip
        for _ in range(STEPS):
            self.random.choice(ways)()
            self.world.run_randomly(self.random.randint(0, 12))
        self.heal()

    def heal(self) -> None:
        """Every fault is gone; time passes; a person settles what is parked."""
        world = self.world
        world.acquirer.mood = acquirer.APPROVES
        world.acquirer.moods.clear()
        world.acquirer.alive = True
        world.journal.full = False
        world.run()
        world.command(OperatorAct.MAINTENANCE_OFF)
        world.up()
        world.advance(3_600_000)
        world.check_settled()
        self.check_batches()

    def check_batches(self) -> None:
        """A closed batch takes nothing new but advices and reversals, and is closed once."""
        closed: dict[str, int] = {}
        for number, row in sorted(self.world.journal.rows.items()):
            transaction = row.transaction
            batch = transaction.key.rsplit("|", 2)[0]
            if transaction.kind in {Kind.SALE, Kind.AUTHORISATION, Kind.UPLOAD} and batch in closed:
                raise AssertionError(f"{number} began in a batch that {closed[batch]} had closed")
            if transaction.kind is Kind.SETTLEMENT and transaction.state is not State.DECLINED:
                assert batch not in closed, "closed twice"
                closed[batch] = number


@pytest.mark.parametrize("first_seed", range(0, SEEDS, 25))
def test_whatever_happens_everything_is_settled_once_it_has_healed(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 25):
        try:
            Walk(seed).walk()
        except Exception as failure:
            failure.add_note(f"seed {seed}")
            raise
