"""The OpenAPI 3.1 document of the HTTP listener, made from the types that it reads and writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.terminals.http_identity import Identities
from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.http_signatures import SCHEME
from gateway.terminals.receipts import RECEIPT_MEDIA_TYPE
from protocol.http_api import (
    GATEWAY_MODE,
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_PATTERN,
    MEDIA_TYPE,
    PROBLEM_MEDIA_TYPE,
    TERMINAL_PATTERN,
    TRANSACTION_ID_PATTERN,
    Mode,
    ProblemKind,
    components,
)

_VERSION: Final = "1"
_ABOUT: Final = (
    "Card payments for tills. Every POST under /v1/transactions needs an Idempotency-Key: send the same key and body "
    "again whenever an answer stays away, and never a new key for the same sale. Amounts are integers in minor units. "
    "Errors are problem details (RFC 9457) whose `type` is stable."
)
_EACH: Final = (ProblemKind.MALFORMED_HTTP, ProblemKind.HEADERS_TOO_LARGE, ProblemKind.INTERNAL)
_OF_V1: Final = (
    *_EACH, ProblemKind.INVALID_REQUEST, ProblemKind.BODY_TIMEOUT, ProblemKind.TOO_LARGE, ProblemKind.RATE_LIMITED,
    ProblemKind.OVERLOADED, ProblemKind.STOPPING,
)  # fmt: skip
_OF_BODY: Final = (ProblemKind.MALFORMED_JSON, ProblemKind.TOO_DEEP, ProblemKind.MEDIA_TYPE)
_OF_SUBMITTING: Final = (
    ProblemKind.KEY_MISSING, ProblemKind.KEY_INVALID, ProblemKind.IN_PROGRESS, ProblemKind.KEY_REUSED,
    ProblemKind.FAIR_SHARE, ProblemKind.RECORD_DAMAGED, ProblemKind.NOT_RECORDED,
)  # fmt: skip
_OF_PROOF: Final = (
    ProblemKind.UNAUTHENTICATED, ProblemKind.SIGNATURE_EXPIRED, ProblemKind.NONCE_REUSED,
    ProblemKind.TERMINAL_NOT_ALLOWED,
)  # fmt: skip
RETRY_AFTER_STATUSES: Final = frozenset({409, 429, 503})
"""Answers with one of these always have Retry-After."""


def openapi_document(settings: HttpListenerSettings, identities: Identities) -> bytes:
    """The document as JSON; what it says of proving who one is follows the listener's settings."""
    document = _Document(settings, identities)
    return msgspec.json.encode(document.whole())


class _Document:
    def __init__(self, settings: HttpListenerSettings, identities: Identities) -> None:
        self._settings = settings
        self._identities = identities
        self._proof = _OF_PROOF if identities.by_certificate or identities.by_signature else ()
        self._types, self._schemas = components()
        self._schemas["Problem"]["properties"]["type"]["enum"] = [kind.uri for kind in ProblemKind]

    def whole(self) -> dict[str, Any]:
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Holdfast for tills",
                "version": _VERSION,
                "description": _ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": {
                "/v1/transactions": {"post": self._submit(), "get": self._list()},
                "/v1/transactions/{id}": {"get": self._show()},
                **({"/v1/transactions/{id}/receipt": {"get": self._receipt()}} if self._settings.receipts else {}),
                "/v1/transactions/{id}/reversal": {"post": self._reverse()},
                "/v1/terminals/{id}/heartbeat": {"post": self._heartbeat()},
                "/openapi.json": {"get": self._itself()},
            },
            "components": {
                "schemas": self._schemas,
                "parameters": _PARAMETERS,
                "headers": _HEADERS,
                **({"securitySchemes": self._schemes()} if self._proof else {}),
            },
        }

    def _submit(self) -> dict[str, Any]:
        links = {
            name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
            for name in ("showTransaction", "reverseTransaction", *(("showReceipt",) * self._settings.receipts))
        }
        return self._operation(
            "submitTransaction",
            "Have a sale, an authorisation or an advice carried out. A retry gets the stored answer.",
            parameters=[_parameter("IdempotencyKey")],
            body="NewTransaction",
            answer="TransactionView",
            problems=(*_OF_V1, *_OF_BODY, *_OF_SUBMITTING, *self._proof),
            links=links,
        )

    def _list(self) -> dict[str, Any]:
        return self._operation(
            "listTransactions",
            "Transactions of a terminal, oldest first, in parts.",
            parameters=[
                _query(
                    "terminal", {"type": "string", "minLength": 1, "maxLength": 8, "pattern": TERMINAL_PATTERN}, True
                ),
                _query("stan", {"type": "string", "minLength": 6, "maxLength": 6, "pattern": "^[0-9]{6}$"}),
                _query("after", {"type": "integer", "minimum": 0, "maximum": 10**15, "default": 0}),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": self._settings.list_max}),
            ],
            answer="TransactionPage",
            problems=(*_OF_V1, *self._proof),
        )

    def _show(self) -> dict[str, Any]:
        return self._operation(
            "showTransaction",
            "Where a transaction stands now.",
            parameters=[_parameter("TransactionId")],
            answer="TransactionView",
            problems=(*_OF_V1, ProblemKind.TRANSACTION_UNKNOWN, ProblemKind.RECORD_DAMAGED, *self._proof),
        )

    def _receipt(self) -> dict[str, Any]:
        operation = self._operation(
            "showReceipt",
            "Proof that the log has what the till was told (c2sp.org/tlog-proof), with the log's signed head.",
            parameters=[_parameter("TransactionId")],
            answer={},
            problems=(
                *_OF_V1, ProblemKind.TRANSACTION_UNKNOWN, ProblemKind.RECORD_DAMAGED, ProblemKind.RECEIPT_LATER,
                *self._proof,
            ),
        )  # fmt: skip
        proof = {"schema": {"type": "string", "pattern": "^c2sp\\.org/tlog-proof@v1"}}
        operation["responses"]["200"]["content"] = {RECEIPT_MEDIA_TYPE: proof}
        return operation

    def _reverse(self) -> dict[str, Any]:
        return self._operation(
            "reverseTransaction",
            "Undo a transaction. Taken whenever the transaction is known; there is one reversal of each.",
            parameters=[_parameter("TransactionId"), _parameter("IdempotencyKey")],
            body="NewReversal",
            answer="TransactionView",
            problems=(
                *_OF_V1, *_OF_BODY, *_OF_SUBMITTING, ProblemKind.TRANSACTION_UNKNOWN, ProblemKind.NOT_REVERSIBLE,
                *self._proof,
            ),
        )  # fmt: skip

    def _heartbeat(self) -> dict[str, Any]:
        return self._operation(
            "heartbeat",
            "Tell how a terminal is; learn the time and what the gateway can do.",
            parameters=[_parameter("TerminalId")],
            body="Heartbeat",
            answer="HeartbeatAnswer",
            problems=(*_OF_V1, *_OF_BODY, ProblemKind.NOT_FOUND, *self._proof),
        )

    def _itself(self) -> dict[str, Any]:
        schema = {"type": "object", "required": ["openapi"]}
        operation = self._operation("describe", "This document.", answer=schema, problems=_EACH)
        operation["security"] = []
        return operation

    def _operation(
        self,
        name: str,
        summary: str,
        *,
        answer: str | dict[str, Any],
        problems: Iterable[ProblemKind],
        parameters: Iterable[dict[str, Any]] = (),
        body: str = "",
        links: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        schema = self._types[answer] if isinstance(answer, str) else answer
        done: dict[str, Any] = {
            "description": "Done.",
            "headers": {GATEWAY_MODE: _header("GatewayMode")},
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        if links:
            done["links"] = links
        operation: dict[str, Any] = {
            "operationId": name,
            "summary": summary,
            "parameters": list(parameters),
            "responses": {"200": done, **self._refusals(problems)},
        }
        if body:
            operation["requestBody"] = {"required": True, "content": {MEDIA_TYPE: {"schema": self._types[body]}}}
        if self._proof:
            operation["security"] = [{scheme: []} for scheme in self._schemes()]
        return operation

    def _refusals(self, problems: Iterable[ProblemKind]) -> dict[str, Any]:
        by_status: dict[int, list[ProblemKind]] = {}
        for kind in problems:
            by_status.setdefault(kind.status, []).append(kind)
        responses = {}
        for status, kinds in sorted(by_status.items()):
            headers = {GATEWAY_MODE: _header("GatewayMode")}
            if status in RETRY_AFTER_STATUSES:
                headers["Retry-After"] = _header("RetryAfter")
            if status == 401:
                headers["WWW-Authenticate"] = _header("Authenticate")
            only = {"properties": {"type": {"enum": [kind.uri for kind in kinds]}, "status": {"const": status}}}
            responses[str(status)] = {
                "description": ". ".join(kind.title for kind in kinds) + ".",
                "headers": headers,
                "content": {PROBLEM_MEDIA_TYPE: {"schema": {"allOf": [self._types["Problem"], only]}}},
            }
        return responses

    def _schemes(self) -> dict[str, Any]:
        schemes: dict[str, Any] = {}
        if self._identities.by_signature:
            about = "HMAC-SHA256 over method, target, terminal, timestamp, nonce, Idempotency-Key and body hash."
            schemes["signature"] = {"type": "http", "scheme": SCHEME, "description": about}
        if self._identities.by_certificate:
            schemes["certificate"] = {"type": "mutualTLS", "description": "The certificate names its terminals."}
        return schemes


def _parameter(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/parameters/{name}"}


def _header(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/headers/{name}"}


def _query(name: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


_PARAMETERS: Final[dict[str, Any]] = {
    "IdempotencyKey": {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "required": True,
        "description": "Unique for each thing wanted of one terminal, and the same for each retry of it.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": IDEMPOTENCY_KEY_PATTERN},
    },
    "TransactionId": {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": TRANSACTION_ID_PATTERN},
    },
    "TerminalId": {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 8, "pattern": TERMINAL_PATTERN},
    },
}
_HEADERS: Final[dict[str, Any]] = {
    "GatewayMode": {
        "required": True,
        "description": "What to expect: the acquirer is asked; or sales are decided here; or so by plan.",
        "schema": {"type": "string", "enum": [mode.value for mode in Mode]},
    },
    "RetryAfter": {
        "required": True,
        "description": "Seconds to wait before the same request is sent again, with the same Idempotency-Key.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Authenticate": {"required": True, "schema": {"type": "string"}},
}
