"""`holdfast-bench run`: play a scenario, judge it, and write down what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from bench.child import GatewayBroken
from bench.interruption import INTERRUPTED, SIGNALS, patience, undisturbed
from bench.load.fingerprint import disclosed_options, fingerprint
from bench.load.generator import GeneratorBroken
from bench.load.histogram import LatencyRecorder
from bench.load.host_process import HostBroken
from bench.load.options import RunOptions, Scenario
from bench.load.phases import Part
from bench.load.report_html import write_report
from bench.load.report_text import show
from bench.load.results import UNWRITTEN, Cost, Results, write_results, written
from bench.load.scenarios import play
from bench.load.setup import TLS_FOLDER
from bench.load.stage import Findings, Rig
from bench.load.tally import Outcome
from bench.own_process import open_files
from bench.screen import Screen
from gateway.journal.port import JournalError

GENERATOR_SHARE_MAX: Final = 0.9
LATE_SHARE_MAX: Final = 0.01


def run(options: RunOptions) -> int:
    """Run, print, and write what was asked for.

    Returns:
        0 where everything held; 1 where not; 2 where it held and a file could not be written;
        130 after Ctrl-C, with what was measured until then.
    """
    began = datetime.now(UTC)
    open_files()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-load-"))
    interrupted = False
    with contextlib.ExitStack() as afterwards:
        try:
            with Screen(f"Load: {options.scenario.value}, seed {options.seed}") as screen:
                screen.phase(0.0, f"{options.scenario.value}, seed {options.seed}")
                rig, interrupted = uvloop.run(_played(options, folder, screen))
                afterwards.enter_context(undisturbed())
            results = report(options, rig, began)
        finally:
            _put_away(folder, options.keep)
        show(results)
        kept = written(lambda: write_files(options, results))
    if interrupted:
        return INTERRUPTED
    if not results.held:
        return 1
    return 0 if kept else UNWRITTEN


async def _played(options: RunOptions, folder: Path, screen: Screen) -> tuple[Rig, bool]:
    """Play; whatever goes wrong is among the problems. Ctrl-C ends the load early, and what was measured is judged."""
    rig = Rig(options, folder, screen)
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    interrupted = False
    try:
        try:
            await rig.start()
            await play(rig, options)
        except asyncio.CancelledError:
            interrupted = True
            task.uncancel()
            rig.findings.problems.append("interrupted")
        if rig.parts.all:
            await rig.finish()
    except asyncio.CancelledError:
        interrupted = True
        task.uncancel()
        rig.findings.problems.append("interrupted")
    except (GatewayBroken, HostBroken, GeneratorBroken, JournalError, OSError) as broken:
        rig.findings.problems.append(str(broken))
    finally:
        for number in SIGNALS:
            loop.add_signal_handler(number, patience)
        await rig.stop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return rig, interrupted


def report(options: RunOptions, rig: Rig, began: datetime) -> Results:
    """The document of a run."""
    findings = rig.findings
    rig.parts.end()
    total = rig.parts.total()
    if total is not None and (empty := shows_nothing(total)):
        findings.problems.append(empty)
    held = findings.truth.clean and not findings.problems and total is not None
    answered = total.answered if total is not None else 0
    share = max((part.cpu_share for part in rig.parts.all if part.measured), default=0.0)
    cost = Cost(
        gateway_cpu_s_per_1000=round(1000 * findings.gateway_cpu_s / answered, 6) if answered else 0.0,
        generator_cpu_share=round(share, 4),
        resident_max_bytes=rig.watch.resident_max_bytes,
        disk_bytes_per_transaction=round(findings.disk_bytes / findings.stored, 1) if findings.stored else 0.0,
        commits=findings.commits,
        syncs=findings.syncs,
        log_max_bytes=rig.watch.log_max_bytes,
    )
    configuration = rig.gateway.config
    return Results(
        command="run",
        scenario=options.scenario.value,
        began_utc=began.isoformat(timespec="seconds"),
        options=disclosed_options(options.told()),
        held=held,
        verdict=verdict(options, findings, total, share),
        phases=[part.result() for part in rig.parts.all],
        samples=rig.watch.samples,
        total=total.result() if total is not None else None,
        cost=cost,
        fingerprint=fingerprint(
            rig.folder, configuration.read_text(encoding="utf-8") if configuration.exists() else ""
        ),
    )


def shows_nothing(total: Part) -> str:
    """Why a run in which nothing was lost is no proof of anything; empty where it is one."""
    if not total.answered:
        return "nothing was answered: this shows nothing"
    return "" if total.outcomes[Outcome.APPROVED] else "nothing was approved: this shows nothing"


def verdict(options: RunOptions, findings: Findings, total: Part | None, share: float) -> list[str]:
    """What is to be said first, line by line."""
    lines = [findings.truth.sentence(), *findings.truth.examples]
    lines += [f"problem: {problem}" for problem in findings.problems]
    lines += findings.remarks
    if total is not None and options.scenario is not Scenario.DRAIN:
        lines.append(_of_generator(total, share))
    if findings.host_share > GENERATOR_SHARE_MAX:
        lines.append(f"the simulated acquirer was the limit: it took {findings.host_share:.2f} of a core")
    lines.append(f"seed {options.seed}")
    return lines


def _of_generator(total: Part, share: float) -> str:
    """Whether the generator was the limit: by its share of a core, or because it was late by itself."""
    late = total.late / total.offered if total.offered else 0.0
    seen = f"it took {share:.2f} of a core and was at most {total.lag_ns_max / 1e6:.1f} ms late by itself"
    if share > GENERATOR_SHARE_MAX:
        return f"the generator was the limit: {seen}"
    if late > LATE_SHARE_MAX:
        return (
            f"the generator was late, which is in the response times: {seen}, {late:.1%} of the requests by more than "
            "5 ms; the machine has too little to spare"
        )
    return f"the generator was not the limit: {seen}"


def write_files(options: RunOptions, results: Results) -> None:
    """JSON, HTML and, beside either, the spectra as .hgrm."""
    if options.json_path is not None:
        write_results(results, options.json_path)
    if options.report_path is not None:
        write_report(results, options.report_path)
    beside = options.report_path or options.json_path
    if beside is None or results.total is None or not results.total.latency.response.count:
        return
    latency = results.total.latency
    for name, encoded in (("service", latency.service_hdr), ("response", latency.response_hdr)):
        spectrum = LatencyRecorder.decoded(encoded).hgrm()
        beside.with_suffix(f".{name}.hgrm").write_text(spectrum, encoding="ascii")


def _put_away(folder: Path, keep: Path | None) -> None:
    """Keep the folder where that was asked for, without keys; else remove it. What cannot be kept costs no results."""
    if keep is not None:
        for name in ("keys", TLS_FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)
        try:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, keep, dirs_exist_ok=True)
        except OSError as error:  # shutil.Error as well
            print(f"holdfast-bench: not all of it could be kept in {keep}: {error}")
    shutil.rmtree(folder, ignore_errors=True)
