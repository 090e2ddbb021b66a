"""Host and gateway prove to each other who they are, over HTTP: TLS, credentials, signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from gateway.acquirers.http import HttpLink
from gateway.acquirers.http_credential import Credential, CredentialKind, CredentialWrong, read_credential
from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.settings import EndpointSettings
from gateway.core.effects import Purpose, Send
from gateway.core.events import Answered, Connected, NotSent, TimedOut
from gateway.terminals.http_signatures import Signed, signature
from protocol.iso8583.message import Message
from tests.acquirers.conformance import LONG_MS, Core, sale
from tests.acquirers.http_host import HttpHost
from tests.acquirers.http_scene import NAME, scene, tls_ends
from tests.acquirers.test_http import DIALLED_MS, QUICK, UTC_MS, mapping
from tests.acquirers.waiting import mono_ms, on_each_loop, until


@on_each_loop
async def test_over_tls_it_is_the_same(tmp_path: Path) -> None:
    host_tls, tls = tls_ends(tmp_path, trusted=True)
    async with scene(tls=tls, host_tls=host_tls) as s:
        for token in (1, 2):
            s.send(token)
            (await s.host.next()).answer()
            await s.core.wait(Answered, token)


@on_each_loop
async def test_a_host_that_cannot_prove_who_it_is_gets_nothing(tmp_path: Path) -> None:
    host_tls, tls = tls_ends(tmp_path, trusted=False)
    host = HttpHost()
    host.tls = host_tls
    endpoint = EndpointSettings(host="127.0.0.1", port=await host.start(), tls=tls, server_hostname=NAME)
    core = Core()
    settings = HttpLinkSettings(name="acquirer", endpoints=(endpoint,), **cast("Any", QUICK))
    link = HttpLink(settings, mapping(), core.deliver, mono_ms, lambda: UTC_MS, core.report)
    await link.start()
    await until(lambda: link.counters()["connect_failed"] > 0, "refused")
    link.send(Send(1, Purpose.REQUEST, Message("0200", sale(1)), LONG_MS))
    await core.wait(NotSent, 1)
    assert "CA" in link.endpoints()[0].last_error
    assert not any(isinstance(event, Connected) for event in core.events)
    await link.close()
    await host.stop()
    assert host.received == []


@on_each_loop
async def test_each_request_carries_a_key_that_a_repeat_has_too_and_a_signature() -> None:
    secret = bytes(range(32))
    credential = Credential(kind=CredentialKind.HMAC, secret=secret, key_id="GATE1")
    async with scene(credential=credential) as s:
        seen = []
        advice, reversal = Purpose.ADVICE, Purpose.REVERSAL
        for token, mti, purpose in ((1, "0220", advice), (2, "0221", advice), (3, "0400", reversal)):
            s.send(token, purpose, mti, f11="000007", timeout_ms=LONG_MS if token != 1 else DIALLED_MS)
            exchange = await s.host.next()
            seen.append(exchange)
            if token == 1:
                await s.core.wait(TimedOut, 1)
            else:
                exchange.answer()
                await s.core.wait(Answered, token)
        keys = [exchange.headers["idempotency-key"] for exchange in seen]
        assert keys[0] == keys[1] != keys[2]
        assert seen[0].body == seen[1].body
        shown = seen[0].headers["authorization"].removeprefix("Holdfast-HMAC ")
        given = dict(parameter.split("=", 1) for parameter in shown.split(", "))
        signed = Signed(method="POST", target="/0220", idempotency_key=keys[0], body=seen[0].body)
        right = signature(secret, signed, "GATE1", str(UTC_MS // 1000), given["nonce"].strip('"'))
        assert given["signature"] == f'"{right}"'
        nonces = {exchange.headers["authorization"] for exchange in seen}
        assert len(nonces) == 3
    assert "secret" not in repr(credential)


def test_a_credential_is_read_from_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-token-of-some-length\n", encoding="ascii")
    path.chmod(0o644)
    with pytest.raises(CredentialWrong, match="chmod 600"):
        read_credential(CredentialKind.BEARER, path)
    path.chmod(0o600)
    assert read_credential(CredentialKind.BEARER, path).secret == b"a-token-of-some-length"
    with pytest.raises(CredentialWrong, match="hexadecimal") as wrong:
        read_credential(CredentialKind.HMAC, path)
    assert "a-token" not in str(wrong.value)
    with pytest.raises(CredentialWrong, match="does not exist"):
        read_credential(CredentialKind.BEARER, tmp_path / "absent")


def test_wrong_settings_are_told_all_at_once() -> None:
    token = Credential(kind=CredentialKind.BEARER, secret=b"12345678")
    endpoint = EndpointSettings(host="h", port=1)
    with pytest.raises(ValueError, match="in_flight_max must be above 0") as wrong:
        HttpLinkSettings(
            name="x", endpoints=(endpoint, endpoint), credential=token, in_flight_max=0, late_answer_ms=-1,
            reconnect_initial_ms=9, reconnect_max_ms=8,
        )  # fmt: skip
    assert str(wrong.value).count(";") == 4
