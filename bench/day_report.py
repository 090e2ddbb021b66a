"""What a working day is judged by, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from bench.batches import BatchVerdict
from bench.history import Defect
from bench.outage import FIVE_ZEROS, Result
from bench.screen import Screen

_FINDINGS_SHOWN_MAX: Final = 20


@dataclass(slots=True)
class DayResult(Result):
    """What came out of a day: that of an outage, and batches, wires and MACs.

    Attributes:
        pans_on_wire: times that a card number was met on either line.
        tapped_bytes: that were looked through for them.
        mac_refused: messages that were refused for a wrong MAC, wherever: by the gateway (one is wrong on purpose), by
            the acquirer, by a terminal.
        shop_counts: what the terminals did, by name.
    """

    batches: BatchVerdict = field(default_factory=BatchVerdict)
    pans_on_wire: int = 0
    tapped_bytes: int = 0
    mac_refused: int = 0
    shop_counts: dict[str, int] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether every check is zero, and the day showed something."""
        zeros = not self.pans_on_wire and not self.batches.unbalanced
        return zeros and self.batches.batches > 0 and self.kept()

    def json(self) -> dict[str, Any]:
        """Everything, by name."""
        return {
            **Result.json(self),  # super() does not know its class in a dataclass with slots
            "unbalanced_batches": self.batches.unbalanced,
            "batches": self.batches.batches,
            "uploaded_batches": self.batches.uploaded,
            "pans_on_wire": self.pans_on_wire,
            "tapped_bytes": self.tapped_bytes,
            "mac_refused": self.mac_refused,
            "batch_findings": self.batches.findings[:1000],
            "shop_counts": self.shop_counts,
        }


def tell(result: DayResult, screen: Screen) -> None:
    """Print the verdict."""
    verdict, batches = result.verdict, result.batches
    screen.line()
    if result.held:
        screen.line(
            "HELD: nothing lost, nothing doubled, every batch balanced, no card number on the wire.", "bold green"
        )
    elif result.interrupted:
        screen.line("INTERRUPTED: what was under way at that moment counts as unsettled.", "bold red")
    else:
        screen.line("BROKEN", "bold red")
    numbers = verdict.figures()
    zeros: dict[str, int] = {defect.value: numbers[defect.value] for defect in (*FIVE_ZEROS, Defect.PHANTOM)}
    zeros["unbalanced_batches"], zeros["pans_on_wire"] = batches.unbalanced, result.pans_on_wire
    shown = {"acknowledged": numbers["acknowledged"], "booked": numbers["booked"], **zeros}
    for name, count in shown.items():
        wrong = name in zeros and count > 0
        screen.line(f"  {name.replace('_', ' '):<20}{count:>9}", "bold red" if wrong else "")
    for problem in result.problems:
        screen.line(f"  {problem}", "red")
    findings = [*map(str, verdict.findings), *batches.findings]
    for finding in findings[:_FINDINGS_SHOWN_MAX]:
        screen.line(f"  {finding}", "red")
    if len(findings) > _FINDINGS_SHOWN_MAX:
        screen.line(f"  ... and {len(findings) - _FINDINGS_SHOWN_MAX} more", "red")
    for remark in result.remarks:
        screen.line(f"  worth a look: {remark}", "yellow")
    screen.line()
    rest: dict[str, float] = {name: numbers[name] for name in ("transactions", "declined", "reversed", "resent")}
    rest |= {"batches": batches.batches, "uploaded_batches": batches.uploaded, "mac_refused": result.mac_refused}
    rest |= {"tapped_bytes": result.tapped_bytes, **result.figures}
    for name, value in rest.items():
        screen.line(f"  {name:<20}{value:>12.12g}")
    screen.line(f"  shop floor: {', '.join(f'{name} {count}' for name, count in result.shop_counts.items())}")
    screen.line(f"  answers by code: {', '.join(f'{code} {count}' for code, count in result.responses.items())}")
    screen.line(f"  {'seed':<20}{result.options.seed:>12}")
    if result.folder is not None:
        screen.line(
            f"\nKept in {result.folder}: history.jsonl, ledger.jsonl, batches.jsonl, gateway.log and its journal."
        )
        screen.line(f"Again: {again(result)}")


def again(result: DayResult) -> str:
    """The command that repeats a day."""
    options = result.options
    kill = " --kill" if options.kill else ""
    return (
        f"holdfast-bench day --terminals {options.terminals} --seconds {options.seconds:g}{kill} "
        f"--seed {options.seed} --rate {options.sales_per_second:g}"
    )
