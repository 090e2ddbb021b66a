"""A witness as c2sp.org/tlog-witness describes one, over real HTTP, with what may go wrong with one."""

from __future__ import annotations

import contextlib
import http.server
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from protocol.transparency.checkpoints import Checkpoint, open_checkpoint
from protocol.transparency.cosignatures import WitnessKey, cosign
from protocol.transparency.notes import SignerKey, VerifierKey, parse_note
from protocol.transparency.proofs import ProofError, verify_consistency
from protocol.transparency.text import decode_base64
from protocol.transparency.tree import EMPTY_ROOT

NAME = "witness.example/w1"
SEED = bytes(range(64, 96))


class WitnessHost:
    """One witness for one log; serves from `with` until its end. It forgets nothing when it is away."""

    def __init__(self, log: VerifierKey, *, name: str = NAME, seed: bytes = SEED) -> None:
        self.log = log
        self.key = WitnessKey(name, SignerKey(name, seed).verifier.public)
        self.signs_with = seed
        self.size = 0
        self.root = EMPTY_ROOT
        self.asked: list[int] = []
        """The status of each answer."""
        self.connections = 0
        self.answers: list[tuple[int, bytes]] = []
        """What is answered next, whatever is asked."""
        self.drops = 0
        """So many requests are carried out and not answered."""
        self.answering = threading.Event()
        """While it is not set, answers wait."""
        self.answering.set()
        self.time_s: Callable[[], int] = lambda: int(time.time())
        self._server: http.server.ThreadingHTTPServer | None = None
        self._port = 0
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/prefix"

    @property
    def line(self) -> str:
        """As it stands in a configuration."""
        return f"{self.key.text} {self.url}"

    def __enter__(self) -> WitnessHost:
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def setup(self) -> None:
                host.connections += 1
                super().setup()
                host._open.append(self.connection)

            def do_POST(self) -> None:
                assert self.path == "/prefix/add-checkpoint"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                host.answering.wait(5)
                status, content = host.answers.pop(0) if host.answers else host.judge(body)
                host.asked.append(status)
                if host.drops:
                    host.drops -= 1
                    self.close_connection = True
                    return
                self.send_response(status)
                if status == 409:
                    self.send_header("Content-Type", "text/x.tlog.size")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """Nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Who has hung up before the answer is no fault of ours, and nothing for another test's screen."""
                if not isinstance(sys.exc_info()[1], OSError):
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def judge(self, body: bytes) -> tuple[int, bytes]:
        """The specification, rule by rule."""
        head, _, note = body.partition(b"\n\n")
        first, *lines = head.decode("ascii").split("\n")
        old = int(first.removeprefix("old "))
        checkpoint: Checkpoint = open_checkpoint(note, self.log.name, [self.log])
        if old > checkpoint.size:
            return 400, b"old is more than new\n"
        if old != self.size:
            return 409, f"{self.size}\n".encode()
        try:
            proof = [decode_base64(line) for line in lines]
            verify_consistency(old, checkpoint.size, self.root, checkpoint.root, proof)
        except ProofError:
            return 422, b"not consistent\n"
        self.size, self.root = checkpoint.size, checkpoint.root
        signed = cosign(parse_note(note).text, self.key.name, self.signs_with, self.time_s())
        return 200, signed.line.encode()
