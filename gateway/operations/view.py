"""What operations need to see of a running gateway and may ask of it: `GatewayView`, see gateway/operators_view.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from gateway.core.events import Lookup, OperatorAct
from gateway.core.lifecycle import State
from gateway.core.link import LinkState
from gateway.core.transaction import Stored, Transaction
from gateway.journal.port import JournalHealth, Listing
from gateway.notary.status import NotaryStatus


class Mode(StrEnum):
    """What a new sale meets."""

    ONLINE = "online"  # it is asked upstream
    STANDING_IN = "standing-in"  # the policy decides
    MAINTENANCE = "maintenance"  # the policy decides, because a person has closed the link


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """One address of the acquirer's host.

    Attributes:
        silent: it has left too many messages in a row without an answer, and others go first until it is heard.
    """

    address: str
    connected: bool
    silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquirerStatus:
    """The link upstream.

    Attributes:
        since_ms: UTC time of the last change of `link`.
        in_flight: messages that await an answer.
        outages: how often the link went down since start.
    """

    name: str
    link: LinkState
    since_ms: int
    endpoints: tuple[EndpointStatus, ...]
    in_flight: int
    outages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalsStatus:
    """One listener for terminals, with the address that it really has.

    Attributes:
        macs_refused: messages answered A0 since start, by terminal; terminals without a key under "unknown".
    """

    listen: str
    connections: int
    in_flight: int
    macs_refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysStatus:
    """The epochs of sensitive data.

    Attributes:
        sensitive_epoch_age_ms: of the oldest epoch whose key is not destroyed; an outage keeps one open.
        sensitive_epochs_open: how many there are, the current one included.
        sensitive_epoch_overdue: the oldest is older than `journal.sensitive_epoch_alarm_h`.
        events_untold: changes of keys that wait for their entry in the journal.
        sensitive_quarantined: the oldest transaction in quarantine whose sensitive data keeps an epoch open, or 0.
    """

    sensitive_epoch_age_ms: int
    sensitive_epochs_open: int
    sensitive_epoch_overdue: bool
    events_untold: int
    sensitive_quarantined: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    """Everything that status and metrics tell, taken at one time.

    Attributes:
        taken_ms: UTC time of this status.
        uptime_ms: since the gateway admitted its first terminal.
        lanes_owing: lanes with something to replay or under way.
        requests_waiting: terminals' requests that wait for their lane to drain (D20).
        counters: events since start by stable dotted name, e.g. "terminal.frame-malformed"; they only grow.
        log: how the auditor's log is signed and published; None where that is not known.
    """

    name: str
    version: str
    mode: Mode
    taken_ms: int
    uptime_ms: int
    acquirer: AcquirerStatus
    terminals: tuple[TerminalsStatus, ...]
    journal: JournalHealth
    lanes_owing: int
    requests_waiting: int
    counters: Mapping[str, int] = field(default_factory=dict)
    log: NotaryStatus | None = None
    keys: KeysStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """A signed head of the auditor's log.

    Attributes:
        root: base64 as in the note.
        note: the signed checkpoint, with the cosignatures that it has so far.
    """

    origin: str
    size: int
    root: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a transaction stands where it stands.

    Attributes:
        blocked_by: what must happen first, e.g. "transaction 17", "link down", "a person"; empty for nothing.
        rule: number of the domain rule, e.g. "D14"; empty where nothing blocks.
        next_try_ms: UTC time of the next send at the earliest; None where no send is planned.
        text: the same for a person, in a sentence or two.
    """

    id: int
    state: State
    blocked_by: str
    rule: str
    next_try_ms: int | None
    text: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Whether an operator's act was done, and what to tell the operator."""

    done: bool
    text: str


class GatewayView(Protocol):
    """A running gateway as its operators see it. All calls are made on the event loop's thread."""

    def ready(self) -> tuple[bool, tuple[str, ...]]:
        """Whether transactions can be admitted, and if not, every reason.

        Storing while the acquirer is away is ready; a failing journal, a full disk or a missing key is not.
        """

    async def status(self) -> GatewayStatus:
        """Cheap: asked by every probe and scrape."""

    async def queue(self, listing: Listing) -> list[Transaction]:
        """Rows for operators, in the order of ids."""

    async def show(self, id: int) -> Stored | Lookup:  # noqa: A002 - the journal's word
        """One transaction with its messages, or why there is none to show."""

    async def explain(self, id: int) -> Explanation | Lookup:  # noqa: A002
        """What blocks a transaction, by which rule, and when it is tried next; or why that cannot be said."""

    async def command(self, act: OperatorAct, id: int, who: str, why: str) -> CommandResult:  # noqa: A002
        """Have an operator's act decided and made durable.

        Args:
            id: the transaction; 0 where the act is about the link.
        Cancellation: the act may become durable all the same.
        """

    async def sign_head(self) -> LogHead | str:
        """Have the auditor's log signed as it stands; why not, in words, where that cannot be done."""

    async def continue_log(self, who: str, why: str) -> CommandResult:
        """Have the auditor's log signed again from here on, over a break, which is told in an entry of its own.

        Cancellation: it may be done all the same.
        """
