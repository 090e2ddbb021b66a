"""Lines without sockets: what is wrong with files, whom a certificate names, what a reload changes."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from gateway.tls import (
    CertificateWatch,
    ReloadableContext,
    TerminalNames,
    TlsClientSettings,
    TlsError,
    TlsServerSettings,
    client_context,
    mistakes_of,
    server_context,
    terminal_names,
)
from gateway.tls.files import own_certificates
from tests.acquirers.certificates import CLIENTS, EXPIRED, NOT_YET_VALID, VALID, Authority, Issued, client, server

# --- files ------------------------------------------------------------------------------------------------------------


class Files:
    """A CA, an intermediate CA, and a listener's files that are as they should be."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder)
        self.middle = Authority(folder, "middle", issuer=self.ca)
        self.own = self.middle.issue("own", dns=["localhost"])

    def settings(self) -> TlsServerSettings:
        return TlsServerSettings(
            certificate_file=self.own.certificate_file,
            key_file=self.own.key_file,
            client_ca_file=self.ca.ca_file,
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def _encrypt_key(files: Files) -> None:
    key = files.ca.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files.own.key_file.write_bytes(key)


def _reverse_chain(files: Files) -> None:
    marker = b"-----END CERTIFICATE-----\n"
    first, second, _ = files.own.certificate_file.read_bytes().split(marker)
    files.own.certificate_file.write_bytes(second + marker + first + marker)


def _add_stranger(files: Files) -> None:
    stranger = Authority(files.ca.folder, "stranger")
    with files.own.certificate_file.open("ab") as file:
        file.write(stranger.ca_file.read_bytes())


def _spoil_everything(files: Files) -> None:
    files.own.certificate_file.unlink()
    files.own.key_file.chmod(0o644)
    files.ca.ca_file.unlink()


WRONG: dict[str, tuple[Callable[[Files], object], list[str]]] = {
    "no certificate file": (lambda f: f.own.certificate_file.unlink(), ["certificate_file cannot be read: No such"]),
    "no key file": (lambda f: f.own.key_file.unlink(), ["key_file cannot be read: No such file"]),
    "no CA file": (lambda f: f.ca.ca_file.unlink(), ["client_ca_file cannot be read: No such file"]),
    "no certificate in it": (
        lambda f: f.own.certificate_file.write_text("hello"),
        ["certificate_file holds no PEM certificate"],
    ),
    "no key in it": (lambda f: f.own.key_file.write_text("hello"), ["key_file holds no PEM private key"]),
    "no CA in it": (lambda f: f.ca.ca_file.write_text(""), ["client_ca_file holds no PEM certificate"]),
    "a key open to others": (
        lambda f: f.own.key_file.chmod(0o640),
        ["key_file is open to others than its owner (mode 0640); chmod 600 it"],
    ),
    "a key with a passphrase": (_encrypt_key, ["key_file is encrypted with a passphrase"]),
    "another key": (
        lambda f: f.own.key_file.write_bytes(f.ca.issue("other").key_file.read_bytes()),
        ["key_file is not the key of the first certificate in certificate_file; the unencrypted PEM key"],
    ),
    "expired": (
        lambda f: f.own.replace(f.middle.issue("other", dns=["localhost"], valid=EXPIRED)),
        ["certificate_file is out of date: certificate 1 expired on "],
    ),
    "not yet valid": (
        lambda f: f.own.replace(f.middle.issue("other", dns=["localhost"], valid=NOT_YET_VALID)),
        ["certificate_file is out of date: certificate 1 is valid only from"],
    ),
    "a client's": (
        lambda f: f.own.replace(f.middle.issue("other", usage=CLIENTS)),
        ["certificate_file may not be used by servers"],
    ),
    "the chain reversed": (
        _reverse_chain,
        [
            "certificate_file is no chain: certificate 2 did not issue certificate 1; the own certificate first",
            "key_file is not the key of the first certificate in certificate_file (it fits a later one",
        ],
    ),
    "a stranger in the chain": (_add_stranger, ["certificate_file is no chain: certificate 3 did not issue certif"]),
    "an expired CA": (
        lambda f: Authority(f.ca.folder, valid=EXPIRED),
        ["client_ca_file holds no valid certificate: the last expired on"],
    ),
    "no CA's certificate": (
        lambda f: f.ca.ca_file.write_bytes(f.own.certificate_file.read_bytes()),
        ["client_ca_file is not of CAs alone: certificate 1 is none's"],
    ),
    "everything at once": (
        _spoil_everything,
        ["key_file is open", "certificate_file cannot be read", "client_ca_file cannot be read"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_mistake_in_the_files_is_told_with_what_would_be_right(files: Files, what: str) -> None:
    settings = files.settings()
    assert mistakes_of(settings) == []
    make, told = WRONG[what]
    make(files)
    found = [f"{mistake.key} {mistake.text}" for mistake in mistakes_of(settings)]
    assert len(found) == len(told), found
    for mistake, expected in zip(found, told, strict=True):
        assert mistake.startswith(expected)
        assert ";" in mistake
        assert "PRIVATE" not in mistake
    with pytest.raises(TlsError):
        server_context(settings)


def test_an_expired_certificate_is_told_with_its_date(files: Files) -> None:
    files.own.replace(files.ca.issue("other", dns=["localhost"], valid=EXPIRED))
    (end,) = [one.not_valid_after_utc for one in own_certificates(files.own.certificate_file)]
    (mistake,) = mistakes_of(files.settings())
    assert f"expired on {end:%Y-%m-%d %H:%M} UTC; a renewed one" in mistake.text
    assert mistakes_of(files.settings(), now=end) == []


def test_an_expired_ca_beside_a_present_one_is_normal_while_they_change_over(files: Files) -> None:
    expired = Authority(files.ca.folder, "expired", valid=EXPIRED)
    files.ca.ca_file.write_bytes(files.ca.ca_file.read_bytes() + expired.ca_file.read_bytes())
    assert mistakes_of(files.settings()) == []


def test_a_client_certificate_and_its_key_come_together(files: Files) -> None:
    own = files.own
    (missing,) = mistakes_of(TlsClientSettings(certificate_file=own.certificate_file))
    assert missing.key == "key_file"
    (missing,) = mistakes_of(TlsClientSettings(key_file=own.key_file))
    assert missing.key == "certificate_file"
    assert mistakes_of(TlsClientSettings()) == []
    one_certificate = TlsClientSettings(ca_file=own.certificate_file)  # a host's own certificate may be trusted as such
    assert mistakes_of(one_certificate) == []


# --- names ------------------------------------------------------------------------------------------------------------


def test_common_names_and_uris_count_and_all_else_does_not() -> None:
    peercert = {
        "subject": ((("organizationName", "ORG"),), (("commonName", "T1"),), (("commonName", "T2"),)),
        "subjectAltName": (
            ("URI", "holdfast:terminal:T3"),
            ("URI", "holdfast:terminal:T%204"),
            ("URI", "holdfast:terminal:%2A"),
            ("URI", "holdfast:terminal:"),
            ("URI", "holdfast:TERMINAL:T5"),
            ("DNS", "T6"),
            ("URI", "holdfast:terminal:*"),
        ),
    }
    assert terminal_names(peercert) == TerminalNames(frozenset({"T1", "T2", "T3", "T 4", "*"}))
    assert terminal_names(peercert, allow_wildcard=True).every
    assert "T7" not in terminal_names(peercert)
    assert "T7" in terminal_names(peercert, allow_wildcard=True)
    assert "" not in terminal_names({"subject": ((("commonName", ""),),)})
    assert terminal_names({}) == TerminalNames()


def test_names_are_shown_in_bounds() -> None:
    assert str(TerminalNames()) == "no terminal"
    assert str(TerminalNames(frozenset("ab"))) == "a, b"
    assert str(TerminalNames(frozenset(map(str, range(100)))))[-12:] == " and 92 more"
    assert str(TerminalNames(frozenset("ab"), every=True)) == "*"


def test_a_connection_is_bound_only_where_the_listener_says_so(files: Files) -> None:
    peercert = {"subject": ((("commonName", "T1"),),)}
    bound = server(files.own, files.ca)
    assert bound.names_of(peercert) == TerminalNames(frozenset({"T1"}))
    assert bound.names_of(None) == TerminalNames()  # cannot come about, and would be nobody's
    assert server(files.own).names_of(peercert) is None
    assert server(files.own, files.ca, bind_terminal_ids=False).names_of(peercert) is None
    optional = server(files.own, files.ca, require_client_certificate=False)
    assert optional.names_of({}) is None
    assert optional.names_of(peercert) == TerminalNames(frozenset({"T1"}))


# --- handshakes and reload --------------------------------------------------------------------------------------------


def shake(
    one: ReloadableContext, other: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory: our server's end, then the terminal's. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = one.wrap_bio(to_server, to_client, server_side=True)
    theirs = other.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (theirs, ours):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
    assert len(done) == 2
    return ours, theirs


@pytest.fixture
def shown(files: Files) -> Issued:
    return files.ca.issue("terminal", common_name="T1")


def test_both_versions_are_spoken_with_forward_secrecy(files: Files, shown: Issued) -> None:
    tls, terminal = server(files.own, files.ca), client(files.ca, shown)
    ours, _ = shake(tls, terminal)
    assert ours.version() == "TLSv1.3"
    terminal.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, _ = shake(tls, terminal)
    assert ours.version() == "TLSv1.2"
    assert ours.cipher()[0].startswith("ECDHE-")  # type: ignore[index]
    assert ours.compression() is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_of_before_does_not_outlive_the_ca_that_it_was_verified_by(
    files: Files, shown: Issued, version: ssl.TLSVersion
) -> None:
    tls, terminal = server(files.own, files.ca), client(files.ca, shown)
    terminal.maximum_version = version
    _, theirs = shake(tls, terminal)
    session = theirs.session
    files.ca.ca_file.write_bytes(Authority(files.ca.folder, "successor").ca_file.read_bytes())
    assert tls.reload()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(tls, terminal, session)


def test_a_reload_reads_only_what_has_changed_unless_it_is_forced(files: Files) -> None:
    tls = server(files.own, files.ca)
    assert not tls.reload()
    assert tls.reload(force=True)
    files.own.replace(files.middle.issue("other", dns=["localhost"]))
    assert tls.reload()
    assert not tls.reload()


def test_a_link_behind_which_another_file_is_put_is_a_change(files: Files, tmp_path: Path) -> None:
    new = files.middle.issue("new", dns=["localhost"])
    folder = tmp_path / "now"
    folder.symlink_to(tmp_path)
    linked = TlsServerSettings(certificate_file=folder / "own.pem", key_file=folder / "own.key")
    tls = server_context(linked)
    renewed = tmp_path / "renewed"
    renewed.mkdir()
    new.certificate_file.rename(renewed / "own.pem")
    new.key_file.rename(renewed / "own.key")
    folder.unlink()
    folder.symlink_to(renewed)
    assert tls.reload()


def test_a_certificate_that_was_replaced_before_its_key_is_told_and_taken_once_both_are_there(files: Files) -> None:
    tls = server(files.own, files.ca)
    renewed = files.middle.issue("renewed", dns=["localhost"])
    files.own.certificate_file.write_bytes(renewed.certificate_file.read_bytes())
    with pytest.raises(TlsError, match="key_file is not the key of the first certificate"):
        tls.reload()
    assert not tls.reload()
    files.own.key_file.write_bytes(renewed.key_file.read_bytes())
    assert tls.reload()


def test_the_base_of_a_context_can_serve_nobody(files: Files, shown: Issued) -> None:
    tls = server(files.own)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    past = ssl.SSLContext.wrap_bio(tls, incoming, outgoing, server_side=True)
    theirs = client(files.ca).wrap_bio(outgoing, incoming, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        theirs.do_handshake()
    with pytest.raises(ssl.SSLError, match=r"NO_SHARED_CIPHER|NO_SUITABLE"):
        past.do_handshake()


def test_an_end_that_comes_near_is_told_once_a_day(files: Files) -> None:
    told: list[tuple[str, dict[str, str]]] = []
    now = datetime.now(UTC)
    clock = [now]
    watch = CertificateWatch(
        {"terminals": server(files.own), "host": client_context(TlsClientSettings())},
        lambda *one: told.append(one),
        lambda: int(clock[0].timestamp() * 1000),
    )
    for days in (0, 29, 31, 31.5, 32):
        clock[0] = now + timedelta(days=days)
        watch.reload(force=False)
    assert [(name, facts["days_left"]) for name, facts in told] == [
        ("tls.expires-soon", "28"),
        ("tls.expires-soon", "27"),
    ]
    assert VALID[1].days == 60
