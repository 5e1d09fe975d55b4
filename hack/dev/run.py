"""`make run`: the whole system on this machine, with nothing installed but Python and make.

Exits with 0 after Ctrl-C or SIGTERM; with 1 and a message that says what to do when something is in the way or
a part of the system fails.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from hack.dev import readme
from hack.dev.errors import DevError
from hack.dev.launcher import Commands, Launcher
from hack.dev.layout import REPOSITORY, Layout

FOLLOWED = ("api", "worker")


def services() -> Commands:
    """The real services, as their images run them."""
    return Commands(
        migrate=[sys.executable, "-m", "services.manage", "migrate"],
        api=[
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "services/api/gunicorn.conf.py",
            "services.api.main:app",
        ],
        worker=[sys.executable, "-m", "services.worker"],
    )


def main(arguments: list[str] | None = None, *, commands: Commands | None = None) -> int:
    """Run until told to stop; the exit code."""
    options = _parse(arguments)
    layout = Layout.of(options.folder)
    follower = Follower(layout)
    try:
        layout.create()
        if not layout.acquire():
            raise _already_running(layout)
        try:
            _say("Starting (data in .local/, logs in .local/logs/).")
            launcher = Launcher(
                layout,
                commands or services(),
                repository=REPOSITORY,
                port=options.port,
                environment=os.environ,
                announce=_say,
                max_restarts=options.max_restarts,
            )

            def welcome() -> None:
                _say(_next_steps(options.port))
                follower.start()

            launcher.run(when_ready=welcome, at_every_poll=follower.show_new)
        finally:
            layout.release()
    except DevError as error:
        _complain(error)
        return 1
    return 0


class Follower:
    """Shows what the services log from `start` on, each line behind its service's name."""

    def __init__(self, layout: Layout) -> None:
        self._paths = {name: layout.log(name) for name in FOLLOWED}
        self._offsets: dict[str, int] = {}

    def start(self) -> None:
        """Leave out what was logged so far."""
        self._offsets = {name: path.stat().st_size for name, path in self._paths.items()}

    def show_new(self) -> None:
        """Print the whole lines that have come since."""
        for name, path in self._paths.items():
            if path.stat().st_size <= self._offsets[name]:
                continue
            with path.open("rb") as file:
                file.seek(self._offsets[name])
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[name] += len(whole)
            for line in whole.decode("utf-8", errors="replace").splitlines():
                _say(f"{name:<6} | {line}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make run", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--port", type=_port, default=8000, help="the API's port (8000)")
    parser.add_argument(
        "--max-restarts", type=int, default=3, help="deaths of one service a minute that are mended (3)"
    )
    parser.add_argument("--folder", type=Path, default=REPOSITORY, help="where .local is kept (the checkout)")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 1 to 65535")
    return int(text)


def _already_running(layout: Layout) -> DevError:
    facts = layout.read_run()
    where = f" at {facts['urls']['api']}" if facts else ", still starting or stopping"
    return DevError(
        f"this checkout is already running (process {layout.holder()}){where}",
        advice="Use that one, or stop it: make stop",
    )


def _next_steps(port: int) -> str:
    commands = readme.block(REPOSITORY / "README.md", "try-next", port=port)
    indented = "\n".join(f"  {line}" if line else "" for line in commands.splitlines())
    return (
        f"\nReady: http://localhost:{port} (interface: /docs, health: /health, metrics: /metrics)\n\n"
        f"Try, in another terminal:\n\n{indented}\n\n"
        "Tools find everything in .local/run.json. Stop with Ctrl-C.\n"
    )


def _say(text: str) -> None:
    # A terminal that is gone must not keep the stop from running to its end.
    with suppress(OSError):
        print(text, flush=True)


def _complain(error: DevError) -> None:
    with suppress(OSError):
        print(error.describe(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
