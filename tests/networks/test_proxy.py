"""The proxy is as bad as its weather says, by the same dice each time, and counts what it did."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import pytest

from bench.proxy import CALM, Fault, Proxy, Spell, Way, Weather
from protocol.framing import Framing, LengthPrefix
from tests.gateway.shop import play

FRAMING: Final = Framing(LengthPrefix.BINARY_2, 300)
MESSAGE: Final = FRAMING.wrap(b"hello, acquirer")
SHORT_S: Final = 0.3
ENOUGH_S: Final = 1.0  # for whatever comes at all, on a busy machine too
LONG_S: Final = 5.0


@contextlib.asynccontextmanager
async def echo_behind(
    proxy_seed: int, weather: Weather = CALM, framing: Framing | None = FRAMING
) -> AsyncIterator[Proxy]:
    """A proxy in front of a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = Proxy(("127.0.0.1", port), seed=proxy_seed, framing=framing, weather=weather)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
        server.close()
        await asyncio.sleep(0.01)  # the echoes see their lines end


async def said(proxy: Proxy, sent: bytes = MESSAGE, within_s: float = SHORT_S) -> bytes | str:
    """What comes back: bytes, or in a word what came instead."""
    try:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    except ConnectionRefusedError:
        return "refused"
    got = b""
    try:
        async with asyncio.timeout(within_s):
            writer.write(sent)
            while len(got) < len(sent) and (data := await reader.read(4096)):
                got += data
    except TimeoutError:
        return got or "silence"
    except ConnectionError:
        return got or "reset"
    finally:
        writer.transport.abort()
    return got or "closed"


def test_calm_weather_changes_nothing() -> None:
    async def story() -> None:
        for framing in (FRAMING, None):
            async with echo_behind(1, framing=framing) as proxy:
                assert await said(proxy, MESSAGE * 3, LONG_S) == MESSAGE * 3
                assert proxy.counts["connections"] == 1
                assert not set(proxy.counts) & set(Fault)

    play(story())


@pytest.mark.parametrize(
    ("weather", "seen", "counted"),
    [
        (Weather(refuse=1), "refused", ""),
        (Weather(refuse=0.999_999), "reset", "refused"),
        (Weather(blackhole=1), "silence", "blackholed"),
        (Weather(reset=1, reset_within_ms=1, delay_ms=(100, 100)), "reset", "reset"),
        (Weather(drop_reply=1), "silence", "drop"),
        (Weather(reset_reply=1), "reset", "reset"),
        (Weather(blackhole_reply=1), "silence", "blackhole"),
    ],
)
def test_each_weather_is_seen_and_counted(weather: Weather, seen: str, counted: str) -> None:
    async def story() -> None:
        async with echo_behind(1, weather) as proxy:
            assert await said(proxy, within_s=SHORT_S if seen == "silence" else LONG_S) == seen
            assert not counted or proxy.counts[counted] == 1

    play(story())


def test_a_reply_is_torn_within() -> None:
    async def story() -> None:
        async with echo_behind(1, Weather(reset_inside_reply=1)) as proxy:
            got = await said(proxy, within_s=LONG_S)
            assert isinstance(got, bytes)
            assert 0 < len(got) < len(MESSAGE)
            assert MESSAGE.startswith(got)

    play(story())


@pytest.mark.parametrize(
    "weather",
    [
        Weather(late_reply=1, late_ms=(200, 200)),
        Weather(delay_ms=(100, 100)),
        Weather(dribble=1, dribble_bytes=1, dribble_pause_ms=6),
    ],
)
def test_what_comes_late_or_in_drops_comes_whole(weather: Weather) -> None:
    async def story() -> None:
        async with echo_behind(1, weather) as proxy:
            began = asyncio.get_running_loop().time()
            assert await said(proxy, within_s=LONG_S) == MESSAGE
            assert asyncio.get_running_loop().time() - began > 0.15

    play(story())


def test_a_narrow_line_takes_its_time() -> None:
    async def story() -> None:
        async with echo_behind(1, Weather(bytes_per_s=500)) as proxy:
            began = asyncio.get_running_loop().time()
            assert await said(proxy, MESSAGE * 5, LONG_S) == MESSAGE * 5
            assert asyncio.get_running_loop().time() - began > 0.1

    play(story())


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    async def drawn(seed: int) -> list[bytes | str]:
        async with echo_behind(seed, Weather(refuse=0.3, reset_reply=0.3, drop_reply=0.2)) as proxy:
            return [await said(proxy, within_s=ENOUGH_S) for _ in range(12)]

    async def story() -> None:
        first = await drawn(5)
        assert first == await drawn(5)
        assert first != await drawn(6)
        assert len(Counter(first)) > 1

    play(story())


def test_a_choice_stands_in_place_of_the_dice_and_sees_messages_without_their_length() -> None:
    async def story() -> None:
        seen: list[tuple[Way, bytes]] = []

        def choose(way: Way, message: bytes) -> Fault | None:
            seen.append((way, message))
            return Fault.DROP if message == b"drop me" else None

        async with echo_behind(1) as proxy:
            proxy.choose = choose
            sent = FRAMING.wrap(b"drop me") + MESSAGE
            assert await said(proxy, sent, ENOUGH_S) == MESSAGE
            assert seen == [(Way.REQUEST, b"drop me"), (Way.REQUEST, MESSAGE[2:]), (Way.REPLY, MESSAGE[2:])]

    play(story())


def test_a_schedule_closes_and_opens_the_port() -> None:
    async def story() -> None:
        async with echo_behind(1) as proxy:
            port = proxy.port
            await proxy.follow([Spell(0.05, Weather(drop_reply=1)), Spell(0, Weather(refuse=1))])
            assert proxy.port == port
            assert await said(proxy) == "silence"
            await proxy.change(Weather(refuse=1))
            assert await said(proxy) == "refused"
            await proxy.change(CALM)
            assert await said(proxy, within_s=LONG_S) == MESSAGE

    play(story())


def test_a_target_that_is_not_there_is_a_reset() -> None:
    async def story() -> None:
        async with echo_behind(1) as proxy:
            proxy.target = ("127.0.0.1", 1)
            assert await said(proxy, within_s=LONG_S) == "reset"
            assert proxy.counts["unreachable"] == 1

    play(story())
