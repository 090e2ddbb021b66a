"""Prometheus metrics, made afresh from one status for each scrape: what is told there and in `status` cannot differ."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.core.lifecycle import State, named
from gateway.core.link import LinkState
from gateway.notary.status import NotaryState
from gateway.operations.report import queue_report
from gateway.operations.view import GatewayStatus, Mode


def exposition(status: GatewayStatus, ready: bool, accept: str) -> tuple[bytes, str]:
    """The text of a scrape and its content type, in the format that `accept` (the request's header) prefers."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status, ready))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class StatusCollector(Collector):
    """One status as metrics."""

    def __init__(self, status: GatewayStatus, ready: bool) -> None:
        self._status = status
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        """Every metric of this gateway."""
        status = self._status
        build = InfoMetricFamily("holdfast", "Release and name of this gateway.")
        build.add_metric([], {"version": status.version, "gateway": status.name})
        yield build
        yield _gauge("holdfast_ready", "1 while transactions can be admitted.", self._ready)
        yield _gauge("holdfast_uptime_seconds", "Time since start.", status.uptime_ms / 1000)
        yield _chosen("holdfast_mode", "1 for what a new sale meets now.", "mode", Mode, status.mode)
        yield from self._upstream()
        yield from self._downstream()
        yield from self._queue()
        yield from self._journal()
        yield from self._log()
        yield from self._keys()
        events = CounterMetricFamily("holdfast_events", "Events since start, by name.", labels=["event"])
        for name, count in sorted(status.counters.items()):
            events.add_metric([name], count)
        yield events

    def _upstream(self) -> Iterator[Metric]:
        acquirer = self._status.acquirer
        yield _chosen("holdfast_link_state", "1 for the acquirer's link state.", "state", LinkState, acquirer.link)
        since = "UTC time of the last change of the link's state."
        yield _gauge("holdfast_link_changed_timestamp_seconds", since, acquirer.since_ms / 1000)
        connected = GaugeMetricFamily(
            "holdfast_endpoint_connected", "1 while an endpoint of the acquirer is connected.", labels=["endpoint"]
        )
        silent = GaugeMetricFamily(
            "holdfast_endpoint_silent",
            "1 while an endpoint comes after all others, because it has left too many messages without an answer.",
            labels=["endpoint"],
        )
        for endpoint in acquirer.endpoints:
            connected.add_metric([endpoint.address], endpoint.connected)
            silent.add_metric([endpoint.address], endpoint.silent)
        yield connected
        yield silent
        yield _gauge("holdfast_upstream_in_flight", "Messages that await the acquirer's answer.", acquirer.in_flight)
        yield _counter("holdfast_outages", "Times that the link went down.", acquirer.outages)

    def _downstream(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily("holdfast_terminal_connections", "Connections of terminals.", labels=["listen"])
        in_flight = GaugeMetricFamily(
            "holdfast_terminal_in_flight", "Messages of terminals not yet answered.", labels=["listen"]
        )
        refused = CounterMetricFamily(
            "holdfast_terminal_macs_refused", "Messages of a terminal whose MAC was refused (A0), since start.",
            labels=["listen", "terminal"],
        )  # fmt: skip
        for listener in self._status.terminals:
            for terminal, count in sorted(listener.macs_refused.items()):
                refused.add_metric([listener.listen, terminal], count)
            connections.add_metric([listener.listen], listener.connections)
            in_flight.add_metric([listener.listen], listener.in_flight)
        yield connections
        yield in_flight
        yield refused
        waiting = "Requests that wait for their lane to drain."
        yield _gauge("holdfast_requests_waiting", waiting, self._status.requests_waiting)

    def _queue(self) -> Iterator[Metric]:
        status = self._status
        report = queue_report(status.journal, status.taken_ms, status.lanes_owing, status.requests_waiting)
        states = GaugeMetricFamily("holdfast_transactions", "Transactions in the journal by state.", labels=["state"])
        for state in State:
            states.add_metric([named(state)], report.by_state[named(state)])
        yield states
        owed = GaugeMetricFamily(
            "holdfast_queue_depth", "Transactions that owe something, by what they owe.", labels=["obligation"]
        )
        for obligation, count in report.by_obligation.items():
            owed.add_metric([obligation], count)
        yield owed
        oldest = "Age of the oldest transaction that owes something; 0 for none."
        yield _gauge("holdfast_queue_oldest_seconds", oldest, report.oldest_owed_age_s)
        yield _gauge("holdfast_lanes_owing", "Lanes with something to replay or under way.", status.lanes_owing)

    def _keys(self) -> Iterator[Metric]:
        keys = self._status.keys
        if keys is None:
            return
        age = "Age of the oldest epoch of sensitive data whose key is not destroyed."
        yield _gauge("holdfast_sensitive_epoch_age_seconds", age, keys.sensitive_epoch_age_ms / 1000)
        number = "Epochs of sensitive data whose key is not destroyed."
        yield _gauge("holdfast_sensitive_epochs_open", number, keys.sensitive_epochs_open)
        overdue = "1 while the oldest open epoch is older than it should be."
        yield _gauge("holdfast_sensitive_epoch_overdue", overdue, keys.sensitive_epoch_overdue)
        yield _gauge("holdfast_key_events_untold", "Key events that wait for their entry.", keys.events_untold)

    def _journal(self) -> Iterator[Metric]:
        health = self._status.journal
        yield _gauge("holdfast_journal_writable", "1 while the journal takes writes.", health.writable)
        yield _gauge("holdfast_journal_bytes", "Bytes of the journal's files on disk.", health.bytes_on_disk)
        yield _gauge("holdfast_journal_free_bytes", "Bytes free on the journal's file system.", health.bytes_free)
        yield _gauge("holdfast_journal_queued_writes", "Writes handed over and not yet answered.", health.queued)
        damaged = "Damaged records in quarantine that nobody has settled."
        yield _gauge("holdfast_journal_quarantined_records", damaged, health.quarantined)
        yield _gauge("holdfast_journal_entries", "Highest sequence of the journal.", health.entries)
        yield _counter("holdfast_journal_commits", "Group commits since start.", health.commits)
        synced = "Syncs of the journal's files since start: one a commit, up to four a checkpoint."
        yield _counter("holdfast_journal_syncs", synced, health.syncs)
        yield _counter("holdfast_journal_writes", "Writes since start; divided by commits: batch size.", health.writes)

    def _log(self) -> Iterator[Metric]:
        log = self._status.log
        if log is None:
            return
        yield _chosen("holdfast_log_state", "1 for how the log's heads are signed.", "state", NotaryState, log.state)
        yield _gauge("holdfast_log_head_size", "Entries of the newest signed head.", log.size)
        signed = "UTC time of that signature; 0 for none."
        yield _gauge("holdfast_log_head_timestamp_seconds", signed, log.signed_ms / 1000)
        yield _gauge("holdfast_log_unsigned_entries", "Entries since the newest signed head.", log.unsigned)
        there = "Entries of the newest head that an outlet (folder, syslog, witness) has; 0 for none since start."
        published = GaugeMetricFamily("holdfast_log_published_size", there, labels=["outlet"])
        works = GaugeMetricFamily("holdfast_log_outlet_working", "0 while an outlet fails.", labels=["outlet"])
        for outlet in log.outlets:
            published.add_metric([outlet.name], outlet.size)
            works.add_metric([outlet.name], not outlet.failing)
        yield published
        yield works


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=float(value))


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value=float(value))


def _chosen(name: str, meaning: str, label: str, choices: type[Mode | LinkState | NotaryState], chosen: str) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for choice in choices:
        family.add_metric([choice.value], 1.0 if choice.value == chosen else 0.0)
    return family
