"""The configuration as the rooms of the gateway are told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.wiring import engine_settings


@pytest.mark.parametrize(
    ("in_flight_max", "window_max", "used"), [(2_000, 128, 128), (2_000, 5_000, 1_000), (100, 128, 50), (1, 1, 1)]
)
def test_d19_replay_takes_at_most_half_of_what_the_host_may_have_in_flight(
    tmp_path: Path, in_flight_max: int, window_max: int, used: int
) -> None:
    (tmp_path / "keys").mkdir()
    file = tmp_path / "holdfast.toml"
    file.write_text(
        f"""
[[terminals]]
listen = "127.0.0.1:0"
[acquirer]
endpoints = ["127.0.0.1:9583"]
in_flight_max = {in_flight_max}
[replay]
window_max = {window_max}
""",
        encoding="utf-8",
    )
    assert engine_settings(load_config(file, {})).link.window_max == used
