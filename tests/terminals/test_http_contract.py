"""The OpenAPI document: valid, complete, and what the listener really does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from gateway.terminals.http_identity import Identities
from gateway.terminals.http_openapi import RETRY_AFTER_STATUSES, openapi_document
from gateway.terminals.http_settings import HttpListenerSettings
from protocol.http_api import ProblemKind
from tests.acquirers.waiting import on_each_loop
from tests.terminals.http_shop import SECRET, TERMINAL, http_shop

RULES = Path(__file__).parents[2] / "schemathesis.toml"
EXAMPLES = "40"


def document(*, signed: bool, receipts: bool = False) -> dict[str, Any]:
    settings = HttpListenerSettings(allow_unauthenticated=not signed, receipts=receipts)
    identities = Identities(settings, {TERMINAL: SECRET}.get if signed else None, lambda: 0)
    made: dict[str, Any] = json.loads(openapi_document(settings, identities))
    return made


@pytest.mark.parametrize("signed", [False, True])
def test_the_document_is_valid_openapi_3_1(signed: bool) -> None:
    for receipts in (False, True):
        made = document(signed=signed, receipts=receipts)
        assert made["openapi"].startswith("3.1")
        validate(made)


@pytest.mark.parametrize("signed", [False, True])
def test_the_document_names_every_problem_that_an_operation_can_end_in(signed: bool) -> None:
    made = document(signed=signed, receipts=True)
    named = set()
    for operations in made["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                assert answer["headers"]["X-Gateway-Mode"]
                assert ("Retry-After" in answer["headers"]) == (int(status) in RETRY_AFTER_STATUSES)
                if status != "200":
                    schema = answer["content"]["application/problem+json"]["schema"]
                    named |= set(schema["allOf"][1]["properties"]["type"]["enum"])
    proof = {kind.uri for kind in ProblemKind if kind.status in (401, 403)}
    elsewhere = {ProblemKind.METHOD_NOT_ALLOWED.uri}  # no operation's: there is none for that method
    assert {kind.uri for kind in ProblemKind} - elsewhere - (set() if signed else proof) == named


@on_each_loop
async def test_the_document_is_served_to_everybody_in_the_form_of_the_listener() -> None:
    async with http_shop(secrets={TERMINAL: SECRET}) as shop:
        told = await shop.ask("GET", "/openapi.json")
        assert told.headers["Content-Type"] == "application/json"
        assert told.body == document(signed=True)


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """All its checks, against the listener as it runs; the double behind it keeps the core's contract."""

    async def run() -> tuple[int, str, int]:
        async with http_shop(rate_per_s=1_000_000, burst=1_000_000) as shop:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(RULES), "run",
                f"{shop.url}/openapi.json", "--checks", "all", "--max-examples", EXAMPLES, "--seed", "8583",
                cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            output, _ = await process.communicate()
            return process.returncode or 0, output.decode(), shop.core.sends

    code, output, sends = asyncio.run(run())
    assert code == 0, output
    assert sends > 20
