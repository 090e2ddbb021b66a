"""Asks a running gateway's operations listener, over plain HTTP as any tool would."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gateway.config.models import OperationsSection

_TIMEOUT_S = 20.0
_ANSWER_BYTES_MAX = 64 * 2**20
_ANY_TO_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on


class NotRunningError(Exception):
    """Nothing listens on the operations address; the message says so.

    Attributes:
        holder: the process that holds the journal all the same; None where none is seen.
    """

    def __init__(self, address: object, holder: int | None = None) -> None:
        nobody = f"nothing listens on {address}"
        super().__init__(
            f"the gateway is not running ({nobody})"
            if holder is None
            else f"{nobody}, but process {holder} holds the journal: it is starting or stopping, or has another "
            f"[operations] listen than this configuration"
        )
        self.holder = holder


class RefusedError(Exception):
    """The gateway answered with an error; the message is its detail.

    Attributes:
        status: of HTTP; 0 where the answer was none that we understand.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class OperationsClient:
    """One operations listener. Each call is one connection."""

    def __init__(self, operations: OperationsSection) -> None:
        self._address = operations.listen
        self._token_file: Path = operations.token_file
        self._read_needs_token = not operations.listen.loopback

    def get(self, path: str, query: list[tuple[str, str]] | None = None) -> bytes:
        """The JSON answer of a reading path.

        Raises:
            NotRunningError: connection refused.
            RefusedError: any error, also where no answer came in time.
            TokenError: the token is needed and cannot be read.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        headers = self._authorised({}) if self._read_needs_token else {}
        return self._ask("GET", target, None, headers)

    def steer(self, path: str, who: str, why: str) -> bytes:
        """Hand over an operator's act; raises as `get`. After RefusedError with status 0 it may have been done."""
        headers = self._authorised({"Content-Type": "application/json"})
        return self._act(path, json.dumps({"who": who, "why": why}).encode(), headers)

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Hand over an act that says more than who and why; as `steer`."""
        headers = self._authorised({"Content-Type": "application/json"})
        return self._act(path, json.dumps(body).encode(), headers)

    def sign_head(self) -> bytes:
        """Have the auditor's log signed as it stands; raises as `get`."""
        return self._ask("POST", "/v1/audit/checkpoint", b"", self._authorised({}))

    def _authorised(self, headers: dict[str, str]) -> dict[str, str]:
        from gateway.operations.token import read_token  # noqa: PLC0415

        return {**headers, "Authorization": f"Bearer {read_token(self._token_file)}"}

    def _act(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        try:
            return self._ask("POST", path, body, headers)
        except RefusedError as error:
            if error.status:
                raise
            what = f"{error}; it may have been done, or be done later: look before you decide anew"
            raise RefusedError(0, what) from None

    def _ask(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        host = _ANY_TO_LOOPBACK.get(self._address.host, self._address.host)
        connection = http.client.HTTPConnection(host, self._address.port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            content = answer.read(_ANSWER_BYTES_MAX)
        except ConnectionRefusedError:
            raise NotRunningError(self._address) from None
        except TimeoutError:
            raise RefusedError(0, f"no answer from {self._address} within {_TIMEOUT_S:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise RefusedError(0, f"{self._address} gave no answer: {type(error).__name__}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise RefusedError(answer.status, self._detail(content, answer.status))
        return content

    def _detail(self, content: bytes, status: int) -> str:
        try:
            detail = json.loads(content)["detail"]
        except (ValueError, TypeError, KeyError):
            return f"{self._address} answered {status}; is it a Holdfast gateway?"
        return str(detail)
