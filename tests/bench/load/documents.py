"""Documents as a run would write them, from seeded randomness."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from bench.load.histogram import LatencyRecorder
from bench.load.results import Cost, Figure, Fingerprint, Latency, Phase, Results, Sample

CONFIGURATION = """\
[gateway]
name = "Corner shop"
[journal]
path = "/srv/holdfast/journal.sqlite3"
[[terminals]]
listen = "10.1.2.3:9583"
dialect = "unionpay"
[operations]
token = "correct-horse"
"""


@dataclass(frozen=True)
class Machine:
    """How fast a made-up run is.

    Attributes:
        noise: standard deviation of a half-second sample, as a part of the value.
        drift: the same of the whole run against other runs.
    """

    rate_per_s: float = 20_000.0
    typical_us: float = 900.0
    cpu_s: float = 0.045
    disk_bytes: float = 1_480.0
    noise: float = 0.05
    drift: float = 0.02


def recorded(dice: random.Random, count: int, typical_us: float, spread: float = 0.45) -> LatencyRecorder:
    """Log-normal times with a heavy tail."""
    made = LatencyRecorder()
    made.record_all(
        int(typical_us * math.exp(dice.gauss(0, spread)) * (1 if dice.random() > 0.004 else dice.uniform(2, 12)))
        for _ in range(count)
    )
    return made


def latency(service: LatencyRecorder, response: LatencyRecorder) -> Latency:
    return Latency(
        service=service.percentiles(),
        response=response.percentiles(),
        service_hdr=service.encoded(),
        response_hdr=response.encoded(),
    )


def phase(name: str, began_s: float, seconds: float, rate: float, shown: Latency, **more: bool) -> Phase:
    answered = round(rate * seconds)
    return Phase(
        name=name,
        began_s=began_s,
        seconds=seconds,
        offered=answered,
        answered=answered,
        approved=answered - answered // 50,
        declined=answered // 50,
        refused=0,
        failed=0,
        rate_per_s=rate,
        latency=shown,
        **more,
    )


PARTS = (("steady", 12.0, False), ("cut", 8.0, True), ("kill", 3.0, True), ("heal", 5.0, False), ("drain", 10.0, False))


def outage_run(seed: int, machine: Machine = Machine(), values: int = 20_000) -> Results:
    """A run of the scenario `outage`."""
    dice = random.Random(seed)
    fast = math.exp(dice.gauss(0, machine.drift))
    slow = math.exp(dice.gauss(0, machine.drift * 2))
    phases, samples = [], []
    all_service, all_response = LatencyRecorder(), LatencyRecorder()
    began_s, depth = 0.0, 0
    for name, seconds, away in PARTS:
        rate = machine.rate_per_s * fast * (0.3 if name == "kill" else 1.0)
        typical = machine.typical_us * slow * (0.6 if away else 1.0)
        service = recorded(dice, values, typical)
        response = recorded(dice, values, typical * 1.2, 0.55 if name != "kill" else 2.5)
        all_service.merge(service)
        all_response.merge(response)
        phases.append(phase(name, began_s, seconds, rate, latency(service, response), outage=away))
        for half in range(1, int(seconds * 2) + 1):
            depth = depth + int(rate / 2) if away else max(0, depth - int(machine.rate_per_s * 0.4))
            samples.append(
                Sample(
                    at_s=began_s + half / 2,
                    rate_per_s=rate * math.exp(dice.gauss(0, machine.noise)),
                    p99_us=response.percentiles().p99_us * math.exp(dice.gauss(0, machine.noise * 2)),
                    depth=depth if name != "kill" else -1,
                    resident_bytes=int(90e6 + began_s * 1.5e6 + depth * 60),
                    log_bytes=int(dice.uniform(1e6, 4.2e6)),
                )
            )
        began_s += seconds
    total_rate = sum(one.answered for one in phases) / began_s
    return Results(
        command="run",
        scenario="outage",
        began_utc="2026-03-01T12:00:00Z",
        options={"terminals": 64, "seconds": 38.0, "tls": False, "seed": seed, "keep": "/home/teller/kept"},
        held=True,
        verdict=["Nothing was lost, doubled or reordered.", "The queue was empty 9.5 s after the line came back."],
        phases=phases,
        samples=samples,
        total=phase("all", 0.0, began_s, total_rate, latency(all_service, all_response)),
        cost=Cost(
            gateway_cpu_s_per_1000=machine.cpu_s * math.exp(dice.gauss(0, machine.drift)),
            generator_cpu_share=0.62,
            resident_max_bytes=int(148e6 * math.exp(dice.gauss(0, machine.drift / 2))),
            disk_bytes_per_transaction=machine.disk_bytes * math.exp(dice.gauss(0, 0.002)),
            commits=21_344,
            syncs=21_402,
            log_max_bytes=4_194_304,
        ),
        fingerprint=made_fingerprint(),
    )


def made_fingerprint() -> Fingerprint:
    return Fingerprint(
        processor="Example 4000 @ 2.40GHz",
        cores=2,
        memory_bytes=8 << 30,
        kernel="Linux 6.1.0-18 x86_64",
        file_system="ext4",
        sync_us=152.0,
        versions={"Python": "3.11.7", "SQLite": "3.40.1", "Holdfast": "0.1.0"},
        configuration=CONFIGURATION,
    )


def peers_run(seed: int) -> Results:
    """A run of `peers`."""
    dice = random.Random(seed)
    shown = latency(recorded(dice, 5_000, 1_500), recorded(dice, 5_000, 1_500))
    others = {"NATS JetStream": 17_000, "PostgreSQL": 31_000, "Redis streams": 69_000, "aiohttp + aiosqlite": 3_100}
    figures = [
        Figure(
            name=name, value=float(value), unit="1/s", fraction=34_000 / value, note="a sync for each acknowledgement"
        )
        for name, value in others.items()
    ]
    figures.append(Figure(name="MQTT", value=0.0, unit="1/s", note="not installed: looked in /usr/sbin/mosquitto"))
    figures.append(Figure(name="sync of the disk", value=152.0, unit="us", note="median of 200"))
    return Results(
        command="peers",
        began_utc="2026-03-01T12:00:00Z",
        options={"clients": 64},
        held=False,
        verdict=["0.49 times Redis, 0.50 wanted."],
        total=phase("all", 0.0, 10.0, 34_000.0, shown),
        figures=figures,
        fingerprint=made_fingerprint(),
    )
