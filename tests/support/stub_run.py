"""`make run` with stand-ins for the two services, so that its own behaviour can be tried alone.

    python -m tests.support.stub_run --folder F --port P            the launcher, with the stand-ins below
    python -m tests.support.stub_run serve api|worker|migrate       one stand-in

The environment says how a stand-in behaves: STUB_API, STUB_WORKER and STUB_MIGRATE hold words of `fails`,
`unready`, `stubborn` (ignores SIGTERM) and `brief` (ends soon after it was ready).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from hack.dev.launcher import Commands
from hack.dev.run import main


def serve(name: str) -> None:
    """Be a service: health server on the port that the environment gives it, until SIGTERM."""
    words = os.environ.get(f"STUB_{name.upper()}", "").split()
    print(f"{name} here", flush=True)
    if "fails" in words:
        print(f"{name} cannot go on: the reason", flush=True)
        sys.exit(3)
    if name == "migrate":
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if "unready" in words else 200)
            self.end_headers()
            print(f"{name} was asked for {self.path}", flush=True)

        def log_message(self, *_: object) -> None:
            pass

    port = int(os.environ["API__PORT" if name == "api" else "JOBS__HEALTH_PORT"])
    server = HTTPServer(("127.0.0.1", port), Handler)
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if "brief" in words:
        threading.Thread(target=lambda: (time.sleep(1.5), os._exit(4)), daemon=True).start()
    server.serve_forever()


def stand_in(name: str) -> list[str]:
    """The command line of one."""
    return [sys.executable, "-m", "tests.support.stub_run", "serve", name]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        commands = Commands(migrate=stand_in("migrate"), api=stand_in("api"), worker=stand_in("worker"))
        sys.exit(main(sys.argv[1:], commands=commands))
