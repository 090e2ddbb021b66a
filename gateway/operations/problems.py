"""Errors of the operations API as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from aiohttp import web

from gateway.journal.port import JournalError
from gateway.operations.logs import logger

_log = logger("operations")

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProblemDetails(msgspec.Struct, frozen=True):
    """An error's body. `code` is stable and machine-readable; `detail` says what would be right."""

    title: str
    status: int
    code: str
    detail: str
    type: str = "about:blank"


class ProblemError(Exception):
    """An answer that is an error."""

    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        super().__init__(detail)
        self.details = ProblemDetails(status.phrase, status.value, code, detail)


def problem_response(details: ProblemDetails) -> web.Response:
    """The error as an HTTP answer."""
    headers = {"WWW-Authenticate": "Bearer"} if details.status == HTTPStatus.UNAUTHORIZED else {}
    return web.Response(
        status=details.status,
        body=msgspec.json.encode(details),
        content_type="application/problem+json",
        headers=headers,
    )


@web.middleware
async def answer_problems(request: web.Request, handler: RequestHandler) -> web.StreamResponse:
    """Turn every error into problem details. The supervision boundary of this listener: nothing escapes to aiohttp."""
    try:
        return await handler(request)
    except ProblemError as problem:
        return problem_response(problem.details)
    except web.HTTPException as error:
        status = HTTPStatus(error.status)
        code = status.phrase.lower().replace(" ", "-")
        response = problem_response(ProblemDetails(status.phrase, status.value, code, _hint(status)))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except JournalError as error:  # it has stopped, and the gateway is about to
        status = HTTPStatus.SERVICE_UNAVAILABLE
        return problem_response(ProblemDetails(status.phrase, status.value, "journal", str(error)))
    except Exception:  # noqa: BLE001 - an operator's request must never take the gateway down
        _log.exception("operator's request failed", path=request.path)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        details = ProblemDetails(status.phrase, status.value, "internal", "the gateway's log says more")
        return problem_response(details)


def _hint(status: HTTPStatus) -> str:
    if status is HTTPStatus.NOT_FOUND:
        return "paths are /livez, /readyz, /metrics and those under /v1/"
    if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "a steering command's body has at most 8192 bytes"
    return status.description or status.phrase
