"""A collector of traces that takes everything and keeps nothing, so that exporting costs what it costs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    taken_bytes = 0

    def do_POST(self) -> None:
        """Reads and forgets."""
        size = int(self.headers.get("Content-Length", 0))
        self.rfile.read(size)
        type(self).taken_bytes += size
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """The base URL of a running one, for `TRACING__OTLP_ENDPOINT`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="collector", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
