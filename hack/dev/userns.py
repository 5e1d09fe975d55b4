"""Run a program as if by another account, in a user namespace of its own: `python userns.py UID GID PROGRAM
ARG…`.

Postgres refuses to run as root. Where root's checkout lies in a folder that no other account may enter
(/root), this maps root to another id for the program alone: it keeps root's files, and loses every
capability at exec. Linux only; exits with 71 (EX_OSERR) and the reason on standard error when the kernel or
a container's seccomp profile forbids it. Run as a script by path with only the standard library, so that it
starts in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWUSER = 0x10000000
EX_OSERR = 71


def main(arguments: list[str]) -> None:
    """Enter the namespace, write the id maps, become the program."""
    uid, gid, *command = arguments
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.unshare(CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
        # The kernel accepts a group map from an unprivileged writer only once setgroups is given up.
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {outer_uid} 1"),
            ("gid_map", f"{gid} {outer_gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - keeps pathlib out: start-up
                file.write(text)
        os.execv(command[0], command)  # noqa: S606 - the whole point: replace this process, no shell
    except OSError as error:
        print(f"userns: {error}", file=sys.stderr)
        sys.exit(EX_OSERR)


if __name__ == "__main__":
    main(sys.argv[1:])
