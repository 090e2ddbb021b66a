"""The steps of a script: small, plain, one line of text each, and harmless where they make no sense (any more).

A line is the step's name and its values: `ask till=1 mti=0200 code=00 stan=7 amount=1200 card=2 batch=1`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run is made of.

    Attributes:
        host: "iso", "iso-repeat" (0201 is certified), "unionpay", or "unionpay-plain" (batches end here).
        tills: kinds of terminals, by number from 1 (tills.py).
        dice: seeds the jitter of backoffs.
        rate, window, ahead, flights, line, attempts: settings of the engine.
        floor, stored: floor limit, and how many stand-ins a terminal may have.
        remembers: the host answers a repeat as it answered the first.
    """

    host: str = "iso"
    tills: str = "date,date,horizon,http,named"
    dice: int = 0
    rate: int = 0
    window: int = 4
    ahead: int = 8
    flights: int = 12
    line: int = 4
    attempts: int = 6
    floor: int = 2_000
    stored: int = 50
    remembers: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """A sale, an authorisation or an advice; the same line again is a retry. `code` begins field 3."""

    till: int
    mti: str
    code: str
    stan: int
    amount: int
    card: int
    batch: int


@dataclass(frozen=True, slots=True)
class Undo:
    """A terminal's reversal of what it asked with STAN `of`; `stan` is its own, where its dialect wants one."""

    till: int
    mti: str
    code: str
    stan: int
    of: int
    amount: int
    card: int
    batch: int


@dataclass(frozen=True, slots=True)
class Settle:
    """0500 with what the journal says, and `wrong` more."""

    till: int
    stan: int
    batch: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Upload:
    """0320 with `count` of the batch's transactions from number `first` on."""

    till: int
    stan: int
    batch: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class EndUpload:
    """The 0320 that ends an upload."""

    till: int
    stan: int
    batch: int


@dataclass(frozen=True, slots=True)
class SignOn:
    """0800 with the batch that the terminal believes to be in."""

    till: int
    stan: int
    batch: int


@dataclass(frozen=True, slots=True)
class Inquire:
    """A balance inquiry."""

    till: int
    stan: int


@dataclass(frozen=True, slots=True)
class Flow:
    """What was waiting goes on, in this order; letters:

    c commit one write        t tell the first report of the journal
    r, R read for the first or the last lookup        a, z tell what was read first or last
    e, x tell the first or the last event of the link
    """

    ways: str


@dataclass(frozen=True, slots=True)
class Pass:
    """Time passes; with run=1 everything that waits is delivered, with run=0 only what is due by itself happens."""

    ms: int
    run: int


@dataclass(frozen=True, slots=True)
class Mood:
    """How the acquirer meets messages from now on (moods.py)."""

    name: str


@dataclass(frozen=True, slots=True)
class Moods:
    """How it meets the next ones, one each."""

    names: str


@dataclass(frozen=True, slots=True)
class Link:
    """The connection comes or goes; `alive` tells whether the acquirer answers probes."""

    up: int
    alive: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The power goes after so many more effects; of the writes that wait then, the first `keep` are found on disk."""

    after: int
    keep: int


@dataclass(frozen=True, slots=True)
class Doubt:
    """The commit of the next `group` writes fails; they are kept or not. The gateway stops and recovers."""

    group: int
    kept: int


@dataclass(frozen=True, slots=True)
class Disk:
    """Room on the disk: "ok", "short" (nothing new but reversals) or "none"."""

    room: str


@dataclass(frozen=True, slots=True)
class Clock:
    """Somebody sets the wall clock by so much."""

    ms: int


@dataclass(frozen=True, slots=True)
class Operate:
    """An operator's act: release, cancel, void, maintenance-on, maintenance-off."""

    act: str
    id: int


@dataclass(frozen=True, slots=True)
class Damage:
    """The record of this transaction cannot be read from now on."""

    id: int


@dataclass(frozen=True, slots=True)
class Stop:
    """A clean stop: Stopping, everything under way is finished, and a new start."""

    ms: int


Step = (
    Ask | Undo | Settle | Upload | EndUpload | SignOn | Inquire | Flow | Pass | Mood | Moods | Link | Cut | Doubt | Disk
    | Clock | Operate | Damage | Stop
)  # fmt: skip
_KINDS: dict[str, type[Step] | type[Setup]] = {
    kind.__name__.lower(): kind
    for kind in (
        Setup, Ask, Undo, Settle, Upload, EndUpload, SignOn, Inquire, Flow, Pass, Mood, Moods, Link, Cut, Doubt, Disk,
        Clock, Operate, Damage, Stop,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Script:
    """One run."""

    setup: Setup
    steps: tuple[Step, ...]

    def text(self) -> str:
        """One line for the setup, one for each step."""
        return "".join(f"{line_of(line)}\n" for line in (self.setup, *self.steps))


def line_of(step: Step | Setup) -> str:
    """A step as its line of text."""
    values = " ".join(f"{field.name}={getattr(step, field.name)}" for field in fields(step))
    return f"{type(step).__name__.lower()} {values}"


def parse_line(line: str) -> Step | Setup:
    """A line of text as its step. Raises: ValueError."""
    name, *words = line.split()
    if (kind := _KINDS.get(name)) is None:
        raise ValueError(f"there is no step {name!r}")
    types = {field.name: field.type for field in fields(kind)}
    values: dict[str, str | int] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in types:
            raise ValueError(f"{name} has no value {key!r}")
        values[key] = int(value) if types[key] == "int" else value
    try:
        return kind(**values)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"{line!r}: {error}") from None


def parse_script(text: str) -> Script:
    """A script's text; empty lines and what stands behind # are left out. Raises: ValueError."""
    setup, steps = Setup(), list[Step]()
    for line in text.splitlines():
        if plain := line.partition("#")[0].strip():
            step = parse_line(plain)
            if isinstance(step, Setup):
                setup = step
            else:
                steps.append(step)
    return Script(setup, tuple(steps))
