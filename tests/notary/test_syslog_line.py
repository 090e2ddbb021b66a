"""Each signed head is one line of RFC 5424 that carries the whole note, over every way there is."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.notary.outlet import OutletFailed
from gateway.notary.signing import Signed
from gateway.notary.syslog_line import SyslogDestination, SyslogEnd, syslog_line
from protocol.transparency.text import encode_base64
from tests.notary.scene import Scene

_LINE = re.compile(
    r"<109>1 2023-11-14T22:13:20\.000Z (?P<host>\S+) holdfast (?P<number>\d+) CHECKPOINT "
    r"\[checkpoint@32473(?P<facts>( [a-z]+=\"(\\.|[^\"\\\]])*\")+)\] head of (?P<size>\d+) entries"
)


@pytest.fixture
def signed(scene: Scene) -> Signed:
    made = scene.signing().sign(*scene.grow(12))
    assert made is not None
    return made


def check(line: bytes, signed: Signed) -> None:
    """The line is RFC 5424, and the note that it carries is the signed one."""
    match = _LINE.fullmatch(line.decode())
    assert match, line
    facts = dict(re.findall(r' ([a-z]+)="((?:\\.|[^"\\\]])*)"', match["facts"]))
    assert base64.b64decode(facts["note"]) == signed.note
    assert (facts["size"], match["size"]) == (str(signed.size), str(signed.size))
    assert facts["root"] == encode_base64(signed.checkpoint.root)
    assert facts["signature"].encode() in signed.note
    assert facts["origin"] == signed.checkpoint.origin


def test_the_line_carries_the_note_and_no_name_can_break_out_of_it(signed: Signed) -> None:
    check(syslog_line(signed, "shop 7]\n\x00ü", 4711), signed)
    assert b" shop7] holdfast 4711 " in syslog_line(signed, "shop 7]\n\x00ü", 4711)
    assert b"Z - holdfast" in syslog_line(signed, " ", 1)


def test_an_origin_with_what_structured_data_reserves_is_escaped(scene: Scene) -> None:
    scene.origin = 'a"]\\b'
    made = scene.signing().sign(*scene.grow(1))
    assert made is not None
    assert b'origin="a\\"\\]\\\\b" size' in syslog_line(made, "h", 1)


def test_over_udp_each_head_is_one_datagram_and_cosignatures_are_none(signed: Signed) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(5)
        destination = SyslogDestination(SyslogEnd(stream=False, host="127.0.0.1", port=there.getsockname()[1]))
        destination.publish(signed)
        check(there.recv(65_536), signed)
        destination.publish(signed)
        destination.close()
        there.settimeout(0)
        with pytest.raises(BlockingIOError):
            there.recv(65_536)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(5)
        yield made


def test_over_tcp_octets_are_counted_and_a_syslog_that_has_hung_up_is_noticed_before_a_line_is_lost(
    signed: Signed, scene: Scene, listener: socket.socket
) -> None:
    destination = SyslogDestination(SyslogEnd(stream=True, host="127.0.0.1", port=listener.getsockname()[1]))
    destination.publish(signed)
    there, _ = listener.accept()
    counted, _, line = there.recv(65_536).partition(b" ")
    assert int(counted) == len(line)
    check(line, signed)
    there.close()
    later = scene.signing().sign(*scene.grow(1))
    assert later is not None
    with pytest.raises(OutletFailed, match="hung up"):
        destination.publish(later)
    destination.publish(later)
    there, _ = listener.accept()
    check(there.recv(65_536).partition(b" ")[2], later)
    there.close()
    destination.close()


def test_a_syslog_that_is_not_there_is_told(signed: Signed, listener: socket.socket, tmp_path: Path) -> None:
    port = listener.getsockname()[1]
    listener.close()
    for end, reason in (
        (SyslogEnd(stream=True, host="127.0.0.1", port=port), f"127.0.0.1:{port}: Connection refused"),
        (SyslogEnd(stream=False, path=tmp_path / "log"), "log: No such file"),
    ):
        with pytest.raises(OutletFailed, match=reason):
            SyslogDestination(end).publish(signed)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_unix_socket_is_spoken_to_as_it_listens(kind: socket.SocketKind, signed: Signed, tmp_path: Path) -> None:
    path = tmp_path / "log"
    destination = SyslogDestination(SyslogEnd(stream=False, path=path))
    got: list[bytes] = []
    with socket.socket(socket.AF_UNIX, kind) as there:
        there.bind(str(path))
        there.settimeout(5)
        if kind == socket.SOCK_STREAM:
            there.listen()

        def hear() -> None:
            end = there if kind == socket.SOCK_DGRAM else there.accept()[0]
            got.append(end.recv(65_536))
            if end is not there:
                end.close()

        hearing = threading.Thread(target=hear)
        hearing.start()
        destination.publish(signed)
        hearing.join()
    destination.close()
    check(got[0].rstrip(b"\n"), signed)
