"""The configuration says what it means: every mistake at once, with file, key and what would be right."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.config import (
    Address,
    BinRange,
    Config,
    ConfigError,
    StandInMode,
    config_reference_markdown,
    default_config_toml,
    load_config,
    remarks,
    tls_client_settings,
    tls_server_settings,
)
from gateway.config.reference import sections, table_in, tables_within
from gateway.operations.process import file_remarks
from gateway.tls import TlsClientSettings, TlsServerSettings
from protocol.iso8583 import dialect
from tests.acquirers.certificates import EXPIRED, Authority, Issued

LEAST = """
[[terminals]]
listen = "127.0.0.1:0"
[acquirer]
endpoints = ["127.0.0.1:9583"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path


def load(folder: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    file = folder / "holdfast.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, environ or {})


def mistakes(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ)
    return [mistake.removeprefix(f"{folder / 'holdfast.toml'}: ") for mistake in caught.value.mistakes]


def test_the_shipped_file_loads_and_says_nothing_but_the_defaults(folder: Path) -> None:
    assert load(folder, default_config_toml()) == load(folder, LEAST.replace(":0", ":8583"))


def test_the_shipped_file_shows_every_key_of_the_models_with_a_comment(folder: Path) -> None:
    shipped = tomllib.loads(default_config_toml())
    lines = default_config_toml().splitlines()
    for name, model, repeated in sections():
        table = shipped[name][0] if repeated else shipped[name]
        keys = {key: field for key, field in model.model_fields.items() if table_in(field) is None}
        assert set(table) == set(keys)
        for key, field in keys.items():
            assert field.description, f"[{name}] {key} has no meaning"
            above = [lines[number - 1] for number, line in enumerate(lines) if line.startswith(f"{key} = ")]
            assert above, key
            assert all(line.startswith("# ") for line in above), key


def test_the_optional_tables_of_the_shipped_file_are_right_once_their_marks_are_taken_off() -> None:
    shown = tomllib.loads(re.sub(r"^#(?! )", "", default_config_toml(), flags=re.MULTILINE))
    found = [inner for name, model, _ in sections() for inner in tables_within(name, model)]
    assert [name for name, _ in found] == ["terminals.tls", "acquirer.tls", "acquirer.session"]
    assert set(shown["terminals"][0]["tls"]) == set(found[0][1].model_fields)
    assert set(shown["acquirer"]["tls"]) == set(found[1][1].model_fields)
    Config.model_validate(shown)


def test_every_number_has_a_bound_and_every_other_key_says_what_is_right() -> None:
    from gateway.config.reference import bounds_of, extras  # noqa: PLC0415

    tables = [(name, model) for name, model, _ in sections()]
    for name, model in tables + [inner for table in tables for inner in tables_within(*table)]:
        for key, field in model.model_fields.items():
            assert bounds_of(field) or extras(field).get("right"), f"[{name}] {key}"


def test_the_reference_has_a_row_for_every_key() -> None:
    table = config_reference_markdown()
    for name, model, repeated in sections():
        for key, field in model.model_fields.items():
            if table_in(field) is None:
                assert f"`{f'[[{name}]]' if repeated else f'[{name}]'} {key}`" in table
        for inner_name, inner in tables_within(name, model):
            for key in inner.model_fields:
                assert f"`[{inner_name}] {key}`" in table
    assert "15000" in table
    assert "minor units" in table


def test_relative_paths_are_relative_to_the_file(folder: Path) -> None:
    config = load(folder, f'{LEAST}\n[journal]\npath = "j.sqlite3"\n[operations]\ntoken_file = "/run/token"')
    assert config.journal.path == folder / "j.sqlite3"
    assert config.journal.keys == folder / "keys"
    assert config.operations.token_file == Path("/run/token")


def test_the_journal_is_named_without_links_so_that_its_log_is_found_beside_it(folder: Path) -> None:
    (folder / "disk").mkdir()
    (folder / "journal.sqlite3").symlink_to(folder / "disk" / "real.sqlite3")
    assert load(folder, LEAST).journal.path == (folder / "disk" / "real.sqlite3").resolve()


def test_values_arrive_as_the_types_that_the_gateway_works_with(folder: Path) -> None:
    config = load(folder, f'{LEAST}\n[standin]\nmode = "dry-run"\nbin_ranges = ["622200-622299", "6210"]')
    assert config.acquirer.endpoints == (Address("127.0.0.1", 9583),)
    assert config.acquirer.tpdu == bytes.fromhex("6000030000")
    assert config.standin.mode is StandInMode.DRY_RUN
    assert config.standin.bin_ranges == (BinRange("622200", "622299"), BinRange("6210", "6210"))
    assert "6222501234567890" in config.standin.bin_ranges[0]
    assert "6223001234567890" not in config.standin.bin_ranges[0]
    assert config.standin.hot_cards_file is None


def test_an_ipv6_address_is_written_in_brackets(folder: Path) -> None:
    config = load(folder, f'{LEAST}\n[operations]\nlisten = "[::1]:9480"')
    assert config.operations.listen == Address("::1", 9480)
    assert str(config.operations.listen) == "[::1]:9480"


def test_the_environment_overrides_the_file(folder: Path) -> None:
    environ = {
        "HOLDFAST_JOURNAL__PATH": "elsewhere.sqlite3",
        "HOLDFAST_ACQUIRER__ENDPOINTS": '["host-a:1", "host-b:2"]',
        "HOLDFAST_STANDIN__ALLOW_PIN_DROPPED": "true",
        "HOLDFAST_TERMINALS": json.dumps([{"listen": "127.0.0.1:7000"}]),
        "HOLDFAST_SERVICE_HOST": "an orchestrator's",
        "HOLDFAST_PORT_9480_TCP_ADDR": "an orchestrator's",
    }
    config = load(folder, LEAST, environ)
    assert config.journal.path == folder / "elsewhere.sqlite3"
    assert config.acquirer.endpoints == (Address("host-a", 1), Address("host-b", 2))
    assert config.standin.allow_pin_dropped
    assert config.terminals[0].listen.port == 7000


def test_a_mistake_in_the_environment_names_the_variable(folder: Path) -> None:
    environ = {
        "HOLDFAST_REPLAY__RATE_PER_S": "-1",
        "HOLDFAST_JURNAL__PATH": "x",
        "HOLDFAST_JOURNAL__PAHT": "x",
        "HOLDFAST_STANDIN__CURRENCIES": "156",
        "HOLDFAST_ACQUIRER__ENDPOINTS": "host:1",
        "HOLDFAST_TERMINALS__LISTEN": "host:1",
    }
    found = "\n".join(mistakes(folder, LEAST, environ))
    for told in (
        "environment: HOLDFAST_REPLAY__RATE_PER_S: replay.rate_per_s: is too small",
        "environment: HOLDFAST_JURNAL__PATH: is not known; did you mean `journal`?",
        "environment: HOLDFAST_JOURNAL__PAHT: journal.paht: is not known; did you mean `path`?",
        "environment: HOLDFAST_STANDIN__CURRENCIES: standin.currencies: is not a list",
        "environment: HOLDFAST_ACQUIRER__ENDPOINTS: is not JSON",
        "environment: HOLDFAST_TERMINALS__LISTEN: is one listener's key",
    ):
        assert told in found


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("HOLDFAST_JOURNAL_PATH", "HOLDFAST_JOURNAL__PATH"),
        ("holdfast_journal__path", "HOLDFAST_JOURNAL__PATH"),
        ("HOLDFAST_Journal__path", "HOLDFAST_JOURNAL__PATH"),
        ("HOLDFAST_TERMINAL", "HOLDFAST_TERMINALS"),
        ("HOLDFAST_LOGLEVEL", "HOLDFAST_LOG__LEVEL"),
        ("HOLDFAST_ACQUIRER_TLS_CA_FILE", "HOLDFAST_ACQUIRER__TLS__CA_FILE"),
    ],
)
def test_a_variable_that_would_not_be_read_is_a_mistake_that_names_the_nearest(
    folder: Path, variable: str, meant: str
) -> None:
    assert mistakes(folder, LEAST, {variable: "x"}) == [
        f"environment: {variable}: is not known; did you mean `{meant}`?"
    ]


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("127.0.0.1", "localhost"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.1", "LOCALHOST"),
        ("[::1]", "localhost"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("[::]", "localhost"),
        ("127.0.0.1", "0.0.0.0"),  # noqa: S104
        ("[::1]", "[0:0:0:0:0:0:0:1]"),
    ],
)
def test_an_acquirer_that_is_the_gateway_itself_is_a_mistake_whatever_its_name(
    folder: Path, listen: str, endpoint: str
) -> None:
    text = f'[[terminals]]\nlisten = "{listen}:8583"\n[acquirer]\nendpoints = ["{endpoint}:8583"]'
    (told,) = mistakes(folder, text)
    assert told.startswith("acquirer.endpoints[0]: is this gateway's own terminals[0].listen;")
    load(folder, text.replace(f"{endpoint}:8583", f"{endpoint}:8584"))
    load(folder, text.replace(endpoint + ':8583"]', '192.0.2.1:8583"]'))


@pytest.mark.parametrize("path", ["keys/journal.sqlite3", "keys/kek.key", "link/journal.sqlite3"])
def test_a_journal_among_the_keys_is_a_mistake(folder: Path, path: str) -> None:
    (folder / "link").symlink_to("keys")
    (told,) = mistakes(folder, f"[journal]\npath = '{path}'\n{LEAST}")
    assert told.startswith("journal.path: lies in the folder of the keys;")


def test_a_dialect_that_is_not_known_is_told_once_with_all_who_name_it(folder: Path) -> None:
    listener = '[[terminals]]\nlisten = "127.0.0.1:0"\ndialect = "esperanto"\n'
    (told,) = mistakes(folder, f'{listener}{listener}[acquirer]\nendpoints = ["host:1"]\ndialect = "esperanto"')
    assert told.startswith("terminals[0].dialect: ")
    assert told.endswith("(also of terminals[1].dialect, acquirer.dialect)")


def test_more_connections_than_files_may_be_open_are_remarked_upon(folder: Path) -> None:
    config = load(folder, f"{LEAST}\n")
    wanted = config.terminals[0].connections_max + 64
    assert not list(file_remarks(config, wanted))
    (told,) = file_remarks(config, wanted - 1)
    assert f"{wanted} open files" in told


MISTAKES = [
    ("[gateway]\nshutdown_drain_s = -1", "drain_s: is too small; a whole number from 0 to 3600 s (default 20)"),
    ("[gateway]\nnaem = 'x'", "gateway.naem: is not known; did you mean `name`?"),
    ("[gateway]\nlane_wait_ms = 1", "gateway.lane_wait_ms: is not known here; did you mean [replay] lane_wait_ms?"),
    ("[standing]\nmode = 'on'", "standing: is not known; did you mean `standin`?"),
    ("[journal]\nlimit_bytes = true", "journal.limit_bytes: is not a number"),
    ("[journal]\nkeys = 'nowhere'", "journal.keys: is not a folder that exists; `holdfast init` makes one"),
    ("[journal]\npath = 'nowhere/j'", "journal.path: lies in a folder that does not exist"),
    ("[journal]\npath = 'keys'", "journal.path: is a folder"),
    ("[standin]\nmode = 'perhaps'", 'standin.mode: is not one of these; "on", "off" or "dry-run" (default "on")'),
    ("[standin]\nprocessing_codes = ['0']", "standin.processing_codes[0]: has other than 2 digits"),
    ("[standin]\ncurrencies = '156'", "standin.currencies: is not a list"),
    ("[standin]\nbin_ranges = ['62-63']", "standin.bin_ranges[0]: is not a range of card number prefixes"),
    ("[standin]\nbin_ranges = ['6299-6200']", "standin.bin_ranges[0]: ends before it begins"),
    ("[standin]\nbin_ranges = ['6200-629999']", "standin.bin_ranges[0]: has ends of different length"),
    ("[standin]\nhot_cards_file = 'nowhere'", "standin.hot_cards_file: cannot be read"),
    ("[standin]\nallow_pin_dropped = 'maybe'", "standin.allow_pin_dropped: is neither true nor false"),
    ("[replay]\nbackoff_min_ms = 5000\nbackoff_max_ms = 10", "replay.backoff_max_ms: is below replay.backoff_min_ms"),
    ("[operations]\nlisten = '0.0.0.0:9480'", "operations.listen: can be reached from other machines"),
    ("[operations]\nlisten = 'localhost'", "operations.listen: has no port"),
    ("[operations]\nlisten = 'localhost:99999'", "operations.listen: has no valid port"),
    ("[operations]\nlisten = '127.0.0.1:9583'", "acquirer.endpoints[0]: is this gateway's own operations.listen"),
    ("[log]\nlevel = 3", 'log.level: is not one of these; "debug", "info", "warning" or "error" (default "info")'),
    ("replay = 3", "replay: is not a table"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"), MISTAKES, ids=[told.split(":")[0] + f"#{n}" for n, (_, told) in enumerate(MISTAKES)]
)
def test_each_mistake_is_told_with_its_key_and_what_would_be_right(folder: Path, text: str, told: str) -> None:
    found = mistakes(folder, f"{text}\n{LEAST}")
    assert len(found) == 1, found
    assert told in found[0]
    assert ";" in found[0]


def test_all_mistakes_are_told_at_once_whatever_finds_them(folder: Path) -> None:
    text = """
    [gateway]
    shutdown_drain_s = "soon"
    [[terminals]]
    listen = "127.0.0.1:7000"
    terminal_timeout_ms = 1000
    connections_max = 5
    [[terminals]]
    listen = "127.0.0.1:7000"
    dialect = "esperanto"
    [acquirer]
    endpoints = []
    longest_flight_ms = 10
    [journal]
    keys = "nowhere"
    [operations]
    listen = "192.0.2.1:80"
    unheard_of = 1
    """
    found = mistakes(folder, text)
    keys = sorted(mistake.split(": ")[0] for mistake in found)
    assert keys == [
        "acquirer.endpoints",
        "acquirer.longest_flight_ms",
        "gateway.shutdown_drain_s",
        "journal.keys",
        "operations.listen",
        "operations.unheard_of",
        "terminals[0].connections_per_address_max",
        "terminals[0].terminal_timeout_ms",
        "terminals[1].dialect",
        "terminals[1].listen",
    ]


def test_one_mistake_is_told_once(folder: Path) -> None:
    assert len(mistakes(folder, '[[terminals]]\nlisten = "x"\n[acquirer]\nendpoints = ["x"]')) == 2


def test_a_configuration_without_terminals_or_acquirer_is_refused(folder: Path) -> None:
    found = mistakes(folder, "")
    assert sorted(mistake.split(": ")[0] for mistake in found) == ["acquirer.endpoints", "terminals"]


@pytest.mark.parametrize(
    ("host", "gateway", "terminal", "key"),
    [
        (1000, 1000, 60_000, "acquirer.reply_timeout_ms"),
        (1000, 2000, 2000, "terminals[0].terminal_timeout_ms"),
        (3000, 2000, 60_000, "acquirer.reply_timeout_ms"),
        (1000, 2000, 6900, "replay.lane_wait_ms"),
    ],
)
def test_time_limits_that_do_not_nest_are_refused_by_rule_d17(
    folder: Path, host: int, gateway: int, terminal: int, key: str
) -> None:
    text = f"""
    [[terminals]]
    listen = "127.0.0.1:0"
    terminal_timeout_ms = {terminal}
    [acquirer]
    endpoints = ["127.0.0.1:9583"]
    host_timeout_ms = {host}
    reply_timeout_ms = {gateway}
    """
    (found,) = mistakes(folder, text)
    assert found.startswith(f"{key}: ")
    assert "D17" in found


def test_time_limits_that_nest_are_taken(folder: Path) -> None:
    text = LEAST.replace('"127.0.0.1:0"', '"127.0.0.1:0"\nterminal_timeout_ms = 6000')
    config = load(folder, f"{text}host_timeout_ms = 300\nreply_timeout_ms = 500")
    assert config.acquirer.reply_timeout_ms == 500


@pytest.mark.parametrize(
    ("repeats", "terminal", "key"),
    [
        ("true", 4000, "terminals[0].terminal_timeout_ms"),
        ("true", 9000, "replay.lane_wait_ms"),
        ("true", 9001, ""),
        ("false", 7001, ""),
    ],
)
def test_rule_d17_counts_the_second_wait_of_a_host_whose_requests_are_repeated(
    folder: Path, repeats: str, terminal: int, key: str
) -> None:
    dialects = Path(dialect.__file__).parent / "dialects"
    plain = (dialects / "iso87-ascii.toml").read_text(encoding="utf-8")
    assert "repeat_request = false" in plain
    own = plain.replace("repeat_request = false", f"repeat_request = {repeats}")
    (folder / "own.toml").write_text(own, encoding="utf-8")
    text = f"""
    [[terminals]]
    listen = "127.0.0.1:0"
    terminal_timeout_ms = {terminal}
    [acquirer]
    endpoints = ["127.0.0.1:9583"]
    dialect = "own.toml"
    host_timeout_ms = 1000
    reply_timeout_ms = 2000
    """
    if not key:
        assert load(folder, text).acquirer.reply_timeout_ms == 2000
        return
    (found,) = mistakes(folder, text)
    assert found.startswith(f"{key}: ")
    assert "D17" in found
    assert "repeat" in found


def test_an_operations_listener_off_this_machine_needs_to_be_allowed(folder: Path) -> None:
    config = load(folder, f'{LEAST}\n[operations]\nlisten = "0.0.0.0:9480"\nallow_remote = true')
    assert not config.operations.listen.loopback


def test_a_dialect_file_of_ones_own_is_found_beside_the_configuration_and_its_mistakes_are_told(folder: Path) -> None:
    (folder / "own.toml").write_text("name = 3", encoding="utf-8")
    found = mistakes(folder, LEAST.replace("[acquirer]", 'dialect = "own.toml"\n[acquirer]'))
    assert all(mistake.startswith("terminals[0].dialect: ") for mistake in found)
    assert str(folder / "own.toml") in found[0]


def test_a_header_that_does_not_fit_the_acquirers_dialect_is_refused(folder: Path) -> None:
    (found,) = mistakes(folder, f'{LEAST}header = "60"')
    assert found.startswith("acquirer.header: has 1 bytes")


def test_a_hot_card_file_with_a_card_number_in_it_is_refused_without_showing_it(folder: Path) -> None:
    (folder / "hot.txt").write_text(f"\n{'ab' * 16}\n4761739001010010\n", encoding="ascii")
    (found,) = mistakes(folder, f'{LEAST}\n[standin]\nhot_cards_file = "hot.txt"')
    assert "line 3" in found
    assert "4761" not in found


@pytest.mark.parametrize(
    "text",
    [
        "[standin]\nmode = '4761739001010010'",
        "[journal]\nlimit_bytes = '4761739001010010'",
        "[standin]\nbin_ranges = ['4761739001010010']",
        "[acquirer\nx = '4761739001010010'",
    ],
)
def test_no_mistake_shows_what_was_written(folder: Path, text: str) -> None:
    assert "4761739001010010" not in "\n".join(mistakes(folder, f"{LEAST}\n{text}"))


def test_a_file_that_is_missing_or_no_toml_is_said_to_be_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; `holdfast init` makes one"):
        load_config(folder / "nowhere.toml", {})
    (found,) = mistakes(folder, "[journal\npath = 1")
    assert "is not TOML" in found
    assert "line 1" in found


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(folder: Path) -> Issued:
    return Authority(folder).issue("gateway", dns=["localhost"])


TLS = """
[[terminals]]
listen = "0.0.0.0:0"
[terminals.tls]
certificate_file = "gateway.pem"
key_file = "gateway.key"
client_ca_file = "ca.pem"
[acquirer]
endpoints = ["127.0.0.1:9583"]
[acquirer.tls]
ca_file = "ca.pem"
server_name = "host.acquirer.example"
"""


def test_tls_is_switched_on_by_a_table_whose_files_are_beside_the_configuration(folder: Path, own: Issued) -> None:
    config = load(folder, TLS)
    assert config.terminals[0].tls is not None
    assert config.acquirer.tls is not None
    assert tls_server_settings(config.terminals[0].tls) == TlsServerSettings(
        certificate_file=own.certificate_file, key_file=own.key_file, client_ca_file=folder / "ca.pem"
    )
    assert tls_client_settings(config.acquirer.tls) == TlsClientSettings(
        ca_file=folder / "ca.pem", server_name="host.acquirer.example"
    )
    assert list(remarks(config)) == []


def test_the_environment_overrides_a_key_of_a_table_in_a_table(folder: Path, own: Issued) -> None:
    config = load(folder, TLS, {"HOLDFAST_ACQUIRER__TLS__SERVER_NAME": "other.example"})
    assert config.acquirer.tls is not None
    assert config.acquirer.tls.server_name == "other.example"
    assert config.acquirer.tls.ca_file == folder / "ca.pem"
    (found,) = mistakes(folder, TLS, {"HOLDFAST_ACQUIRER__TLS__CA_FILE": "nowhere"})
    assert found.startswith("environment: HOLDFAST_ACQUIRER__TLS__CA_FILE: acquirer.tls.ca_file: cannot be read: ")


TLS_MISTAKES = [
    ("gateway.pem", "nowhere", "terminals[0].tls.certificate_file: cannot be read: No such file or directory; a PEM"),
    ("gateway.key", "nowhere", "terminals[0].tls.key_file: cannot be read: No such file"),
    ("gateway.key", "ca.pem", "terminals[0].tls.key_file: is open to others than its owner (mode 0644); chmod 600 it"),
    ('client_ca_file = "ca.pem"', 'client_ca = "ca.pem"', "terminals[0].tls.client_ca: is not known; did you mean `c"),
    ('key_file = "gateway.key"', "", "terminals[0].tls.key_file: is missing; the path of a PEM file that its owner"),
    ("[acquirer]", "handshakes_max = 0\n[acquirer]", "terminals[0].tls.handshakes_max: is too small; a whole number"),
    ("host.acquirer.example", "host name", "acquirer.tls.server_name: is no host name or address; a host name or"),
    ("[acquirer.tls]", "tls = 3\n[log]", "acquirer.tls: is not a table; a table [acquirer.tls]"),
    ("server_name", 'certificate_file = "gateway.pem"\nserver_name', "acquirer.tls.key_file: is missing beside cert"),
    (
        "server_name",
        "handshakes_max = 3\nserver_name",
        "acquirer.tls.handshakes_max: is not known here; did you mean [",
    ),
]


@pytest.mark.parametrize(("written", "instead", "told"), TLS_MISTAKES)
def test_each_mistake_of_a_tls_table_is_told(folder: Path, own: Issued, written: str, instead: str, told: str) -> None:
    (folder / "ca.pem").chmod(0o644)
    found = mistakes(folder, TLS.replace(written, instead))
    assert any(mistake.startswith(told) for mistake in found), found


def test_an_expired_certificate_is_a_mistake_that_names_its_date(folder: Path, own: Issued) -> None:
    own.replace(Authority(folder, "other").issue("expired", valid=EXPIRED))
    (found,) = mistakes(folder, TLS)
    assert found.startswith("terminals[0].tls.certificate_file: is out of date: certificate 1 expired on 20")
    assert load_config(folder / "holdfast.toml", {}, starting=False).terminals[0].tls is not None  # `holdfast status`


def test_lines_in_clear_to_other_machines_are_remarked_upon_and_not_refused(folder: Path) -> None:
    text = LEAST.replace('listen = "127.0.0.1:0"', 'listen = "0.0.0.0:0"').replace('"127.0.0.1:9583"', '"192.0.2.1:1"')
    terminals, acquirer = remarks(load(folder, text))
    assert terminals.startswith("terminals[0].listen: is reached from other machines without TLS")
    assert acquirer.startswith("acquirer.endpoints: are reached without TLS")
    assert list(remarks(load(folder, LEAST))) == []


def test_private_fields_of_another_form_at_the_acquirer_are_remarked_upon(folder: Path) -> None:
    (folder / "own.toml").write_text(
        'name = "own"\nextends = "unionpay"\n[fields]\n59 = { name = "Battery", type = "n", length = "LL", max = 8 }\n'
    )
    text = LEAST.replace('listen = "127.0.0.1:0"', 'listen = "127.0.0.1:0"\ndialect = "own.toml"')
    (remark,) = remarks(load(folder, text))
    assert remark.startswith("terminals[0].dialect: has other forms than acquirer.dialect in field 59 ")


def test_optional_certificates_are_remarked_upon(folder: Path, own: Issued) -> None:
    text = TLS.replace("[acquirer]", "require_client_certificate = false\n[acquirer]")
    (remark,) = remarks(load(folder, text))
    assert remark.startswith("terminals[0].tls.require_client_certificate: is false")


def test_a_section_cannot_be_changed_once_it_is_loaded(folder: Path) -> None:
    config: Any = load(folder, LEAST)
    with pytest.raises(ValueError, match="frozen"):
        config.journal.limit_bytes = 1
