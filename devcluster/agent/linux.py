"""The few Linux calls that Python 3.11 lacks: namespaces, mounts, parent-death signal, capability bounds.

All raise `OSError` with the call and its target in the message. Constants are from the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000

_MNT_DETACH = 2
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture; Linux 5.12 and newer
_MOUNT_ATTR_RDONLY = 0x1

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _check(result: int, call: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def syscall(number: int, *arguments: Any) -> int:
    """A system call without a wrapper; -1 when refused."""
    wide = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *wide))


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces (`CLONE_NEW*`); for a user namespace it must have one thread."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare {flags:#x}")


def map_user(uid: int, gid: int) -> None:
    """In a fresh user namespace, make the caller's ids appear as `uid` and `gid`; the only ids that exist inside."""
    own_uid, own_gid = _outer_ids
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {own_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {own_gid} 1")


_outer_ids = (os.geteuid(), os.getegid())


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """`mount(2)`."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _check(result, f"mount {kind or 'bind'} {source} on {target}")


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Bind a file or a folder with everything mounted below it."""
    mount(source, target, "", MS_BIND | MS_REC)
    if read_only:
        set_read_only(target, recursive=True)


def set_read_only(target: str, *, recursive: bool) -> None:
    """Make a mount read-only for this mount namespace; needs Linux 5.12."""
    attr = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        target.encode(),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    _check(result, f"make {target} read-only")


def detach(target: str) -> None:
    """Lazily unmount `target` and everything below it."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(_MNT_DETACH)), f"unmount {target}")


def pivot_root(root: str) -> None:
    """Make `root`, a mount point, the root of this mount namespace and drop the old one."""
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), f"pivot_root {root}")
    detach(".")
    os.chdir("/")


def die_with_parent(parent: int, signum: int) -> None:
    """Ask for `signum` when the parent's thread ends; end at once when `parent` is gone already (0: do not look)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signum), 0, 0, 0), "prctl PR_SET_PDEATHSIG")
    if parent and os.getppid() != parent:
        os._exit(137)


def drop_capabilities(*, no_new_privileges: bool) -> None:
    """Empty the bounding set, so that `execve` leaves no capability whatever the user id."""
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) == 0:
        capability += 1
    if no_new_privileges:
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS")
