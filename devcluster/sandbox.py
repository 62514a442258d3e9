"""Run a program with a folder of ours as its /tmp: python -m devcluster.sandbox FOLDER PROGRAM ARGUMENTS...

Needs no root: a user namespace and a mount namespace. The program sees everything else unchanged.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from devcluster.agent import linux


def main(arguments: list[str]) -> int:
    """Never returns when all goes well; 1 with one line on stderr when the kernel forbids namespaces."""
    folder, program, *rest = arguments
    name = Path(program).name
    parent = os.getppid()
    descriptor = os.open(program, os.O_RDONLY | os.O_CLOEXEC)  # the program itself may lie below /tmp
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        linux.map_user(0, 0)
        linux.mount("none", "/", "", linux.MS_REC | linux.MS_SLAVE)
        linux.bind(folder, "/tmp", read_only=False)  # noqa: S108 - the point of this program
    except OSError as error:
        sys.stderr.write(f"devcluster: {name} needs a mount namespace ({error}); {ADVICE}\n")
        return 1
    linux.die_with_parent(parent, signal.SIGKILL)  # again: a change of user namespace may clear it
    return os.execve(descriptor, [program, *rest], dict(os.environ))  # noqa: S606


ADVICE = (
    "allow user namespaces with 'sysctl kernel.apparmor_restrict_unprivileged_userns=0' "
    "or 'sysctl user.max_user_namespaces=15000', or run as root"
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
