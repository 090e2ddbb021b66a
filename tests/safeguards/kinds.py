"""What a removed safeguard is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.safeguards.switches import Switch


@dataclass(frozen=True, slots=True)
class Safeguard:
    """One safeguard, what takes it away, and who must notice.

    Attributes:
        name: what is guaranteed while it is there.
        rule: from the design (INV, D).
        remove: takes it away in this process, for good.
        check: a test of this repository, as pytest names it; one without brackets stands for all its parameters.
        waits: the check waits for the safeguard to act, so that its own deadline is how it notices.
    """

    name: str
    rule: str
    remove: Switch
    check: str
    waits: bool = False
