"""How a server that refuses root (Postgres) is run by root: as `nobody` where that account can reach the
files, else in a user namespace. The owner of an existing data folder decides, so that a folder is always
opened the way it was made.

No account is created and no permission outside the data folder is changed. Fails with DevError when neither
way is open.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.processes import Account

ACCOUNT_NAME = "nobody"
USERNS_SCRIPT = Path(__file__).with_name("userns.py")


@dataclass(frozen=True)
class RunAs:
    """How to start the program: words before the command, and the account to start it as (None: our own)."""

    prefix: tuple[str, ...] = ()
    account: Account | None = None

    def run(self, command: Sequence[str | Path], *, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a short command to its end this way; its output in the result, the exit code unchecked."""
        return subprocess.run(
            [*self.prefix, *map(str, command)],
            cwd=cwd,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
        )


def run_as_for(data_dir: Path, program: Path) -> RunAs:
    """Decide how to run `program` on `data_dir`, which is made here: mode 0700, owned by whoever runs it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir.chmod(0o700)
    except PermissionError as error:
        raise DevError(
            f"{data_dir} belongs to another account, from a run by root or by someone else",
            advice=f"Run as that account again, or start afresh: sudo rm -rf {data_dir.parent}",
        ) from error
    if os.geteuid() != 0:
        return RunAs()
    owner = data_dir.stat()
    if owner.st_uid != 0:
        return RunAs(account=Account(uid=owner.st_uid, gid=owner.st_gid))
    nobody = _nobody()
    as_nobody = RunAs(account=nobody)
    is_new = not any(data_dir.iterdir())
    if is_new and _can_reach(as_nobody, data_dir, program):
        return as_nobody
    in_namespace = RunAs(
        prefix=(sys.executable, "-I", "-S", str(USERNS_SCRIPT), str(nobody.uid), str(nobody.gid))
    )
    if sys.platform == "linux":
        probe = in_namespace.run([program, "--version"], cwd=data_dir)
        if probe.returncode == 0:
            return in_namespace
        reason = probe.stderr.strip()
    else:
        reason = "user namespaces exist on Linux alone"
    raise DevError(
        f"root cannot run {program.name} here: {ACCOUNT_NAME} may not enter {data_dir}, and {reason}",
        advice="Run as an ordinary user, or move the checkout to where others may enter (such as /srv).",
    )


def _nobody() -> Account:
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        raise DevError(
            f"Postgres does not run as root, and this system has no account {ACCOUNT_NAME!r} to run it as",
            advice="Run as an ordinary user.",
        ) from None
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _can_reach(run_as: RunAs, data_dir: Path, program: Path) -> bool:
    """Give the empty data folder to the account; take it back if it cannot use it or the program."""
    if run_as.account is None:
        raise ValueError("only another account's reach is in question")
    os.chown(data_dir, run_as.account.uid, run_as.account.gid)
    script = 'cd "$1" && test -w . && exec "$2" --version'
    try:
        if run_as.run(["/bin/sh", "-c", script, "sh", data_dir, program], cwd=Path("/")).returncode == 0:
            return True
    except OSError:
        pass  # a container that forbids changing accounts: the other way may still be open
    os.chown(data_dir, 0, 0)
    return False
