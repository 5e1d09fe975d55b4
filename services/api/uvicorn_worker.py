"""uvicorn under gunicorn: uvloop, httptools, quick accepting, and the shutdown that the settings ask for."""

from __future__ import annotations

import gc
import socket
import sys
from typing import Any

import anyio.lowlevel
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped] # its package has no types
from scalable_fastapi_system.infra.error_tracking import stop_error_tracking
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.infra.tracing import send_spans_left
from scalable_fastapi_system.web.acceptor import MOST_AT_ONCE, Acceptor
from scalable_fastapi_system.web.file_table import grow_file_table
from uvicorn import Server
from uvicorn_worker import UvicornWorker

# Between two looks for what is unreachable: Python's 700 are reached by some dozen requests at work, and a request that has
# ended leaves nothing to find. A look at ten thousand takes 3 ms, and five hundred connections make forty thousand.
_NEW_OBJECTS = 50_000
_settings = load_settings()


class AcceptingServer(Server):
    """uvicorn's server, whose connections bring those with them that wait behind them."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, on sockets that are open already."""
        await super().startup(sockets)
        grow_file_table()
        # Loads anyio's asyncio half, for which the first file or the first plain function would wait.
        await anyio.lowlevel.checkpoint()
        protocol: Any = self.config.http_protocol_class

        def make_taken() -> Any:
            taken = protocol(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            taken.acceptor = None  # it brings no others: one in a turn of the loop does
            return taken

        self._acceptor = protocol.acceptor = Acceptor(
            sockets or [],
            make_taken,
            tls=self.config.ssl,
            most_at_once=max(1, MOST_AT_ONCE // _settings.api.workers),  # the others are to have some
        )
        # What is there now stays: a full collection that goes over all of it stops the process for a tenth of a second,
        # and the more requests are at work, the more often there is one.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, when all that was taken is known to it and nobody follows a job any more.

        uvicorn tells the application only when its requests have ended, and those who follow a job may stay for hours.
        """
        await self._acceptor.stop()
        end_streams = getattr(getattr(self.config.loaded_app, "state", None), "end_streams", None)
        if end_streams is not None:  # None: another application than `create_app` makes
            end_streams()
        await super().shutdown(sockets)
        # Here, after the last request: uvicorn ends the process by the signal that it got, without what Python does at its end.
        send_spans_left()
        stop_error_tracking()


class ServiceWorker(UvicornWorker):  # type: ignore[misc] # its package has no types
    """One process of the API."""

    CONFIG_KWARGS: dict[str, Any] = {
        "loop": "uvloop",
        # By name: gunicorn's own process, which reads this, then has no need to import it and all that it stands on.
        "http": "services.api.protocol:PROTOCOL",
        "lifespan": "on",  # a start-up that fails ends the process and does not serve half an application
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "timeout_keep_alive": _settings.api.keep_alive_seconds,
        "timeout_graceful_shutdown": int(_settings.api.shutdown_grace_seconds),
        # Addresses are judged by the platform against SECURITY__TRUSTED_PROXIES, for limits and audit alike.
        "proxy_headers": False,
    }

    async def _serve(self) -> None:
        """As the parent's, with our server."""
        self.config.app = self.wsgi
        server = AcceptingServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
