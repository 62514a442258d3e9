"""The root file system a container sees, built of mounts inside its own user and mount namespace.

    /            tmpfs; every entry of the host's root, read-only, but for those below
    /etc         tmpfs; the host's entries, read-only; hosts, hostname and resolv.conf are the pod's
    /dev         null, zero, full, random, urandom, tty; shm (64 MiB, as in a cluster); termination-log
    /proc        the container's own process ids
    /tmp, /run   empty
    <mountPath>  the pod's volumes

A folder that lacks a mount point is replaced by a tmpfs folder holding a bind mount of each of its entries
("exploded"), because overlayfs is not available in every user namespace.
Runs in the container's process before `execve`; nothing here is seen by the host.
"""

# Paths here are names in a root under construction; as text they join by prefix.
# ruff: noqa: PTH102, PTH106, PTH110, PTH112, PTH114, PTH115, PTH208, PTH211, S108

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from devcluster.agent import linux

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
SHM_SIZE = "64m"
_OWN_TOP_FOLDERS = frozenset({"dev", "proc", "tmp", "run", "etc"})
_READ_ONLY_PROC = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_MAX_LINKS = 40


class Mount(TypedDict):
    """One volume: `source` on the host appears at `target`."""

    source: str
    target: str
    read_only: bool


class RootSpec(TypedDict):
    """What a container's root is made of."""

    at: str
    """An empty folder of the host to build on."""
    hidden: str
    """A folder of the host whose content the container must not see (the agent's state)."""
    hostname: str
    tmp: str
    """The folder of the host that is the container's /tmp."""
    etc: Mapping[str, str]
    """Files of the pod's own in /etc: name -> path on the host."""
    termination_log: str
    termination_path: str
    mounts: Sequence[Mount]
    read_only: bool
    """readOnlyRootFilesystem: /tmp and everything but volumes and /dev/shm can not be written."""


@dataclass(slots=True)
class Root:
    """A root under construction at `base`; paths given to methods are those the container will see."""

    base: str
    own: list[str] = field(default_factory=list)
    """Mounts of ours that are still writable."""
    _folders: int = 0

    def real(self, path: str) -> str:
        """Where `path` lies now, symbolic links followed as the container would."""
        done: list[str] = []
        todo = [part for part in path.split("/") if part]
        links = 0
        while todo:
            part = todo.pop(0)
            if part in (".", ".."):
                done = done[: len(done) - (part == "..")]
                continue
            link = self._link([*done, part])
            if link is None:
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(f"{path}: more than {_MAX_LINKS} symbolic links")
            done = [] if link.startswith("/") else done
            todo = [piece for piece in link.split("/") if piece] + todo
        return "/".join([self.base, *done])

    def _link(self, parts: Sequence[str]) -> str | None:
        try:
            return os.readlink("/".join([self.base, *parts]))
        except OSError:
            return None

    def fresh_folder(self) -> str:
        """An empty writable folder on the construction tmpfs."""
        self._folders += 1
        folder = f"{self.base}/.stage/{self._folders}"
        os.mkdir(folder, 0o755)
        return folder

    def replicate(self, source: str, target: str) -> None:
        """Let `target` show what `source` shows, read-only; entries that can not be shown are left out."""
        try:
            if os.path.islink(source):
                os.symlink(os.readlink(source), target)
                return
            make_target(target, folder=os.path.isdir(source))
            linux.bind(source, target, read_only=True)
        except OSError:
            return

    def explode(self, folder: str) -> None:
        """Replace the real path `folder` by a writable one with the same entries."""
        stage = self.fresh_folder()
        for name in os.listdir(folder):
            self.replicate(f"{folder}/{name}", f"{stage}/{name}")
        linux.mount(stage, folder, "", linux.MS_BIND | linux.MS_REC)
        self.own.append(folder)

    def ensure(self, path: str, *, folder: bool) -> str:
        """Make `path` exist as a mount point; returns its real path."""
        current = self.base
        parts = [part for part in self.real(path)[len(self.base) :].split("/") if part]
        for depth, part in enumerate(parts):
            entry = f"{current}/{part}"
            if not os.path.lexists(entry):
                self._create(current, entry, folder=folder or depth < len(parts) - 1)
            current = entry
        return current

    def _create(self, parent: str, entry: str, *, folder: bool) -> None:
        try:
            make_target(entry, folder=folder)
        except OSError:
            self.explode(parent)
            make_target(entry, folder=folder)

    def add(self, item: Mount) -> None:
        """Mount one volume."""
        target = self.ensure(item["target"], folder=os.path.isdir(item["source"]))
        linux.bind(item["source"], target, read_only=item["read_only"])


def make_target(path: str, *, folder: bool) -> None:
    """Create an empty folder or file to mount on."""
    if folder:
        os.mkdir(path, 0o755)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def in_mount_order(mounts: Sequence[Mount]) -> list[Mount]:
    """Outer mount points first, so that a volume may lie inside another; else as declared."""
    return sorted(mounts, key=lambda item: os.path.normpath(item["target"]).count("/"))


def enter(spec: RootSpec) -> None:
    """Build the root, make it the process's own, and set the host name. The caller is alone in its namespaces."""
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_SLAVE)
    linux.mount("tmpfs", spec["at"], "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=256m")
    root = Root(spec["at"], own=[spec["at"]])
    os.mkdir(f"{root.base}/.stage")
    linux.mount(
        "tmpfs", f"{root.base}/.stage", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=256m"
    )
    _add_host(root, spec)
    _add_etc(root, spec)
    _add_devices(root)
    _add_proc(root)
    _add_tmp(root, spec)
    for item in in_mount_order(spec["mounts"]):
        root.add(item)
    termination = root.ensure(spec["termination_path"], folder=False)
    linux.bind(spec["termination_log"], termination, read_only=False)
    linux.detach(f"{root.base}/.stage")
    os.rmdir(f"{root.base}/.stage")
    if spec["read_only"]:
        for path in root.own:
            linux.set_read_only(path, recursive=False)
    socket.sethostname(spec["hostname"])
    linux.pivot_root(root.base)


def _add_host(root: Root, spec: RootSpec) -> None:
    for name in sorted(os.listdir("/")):
        if name not in _OWN_TOP_FOLDERS:
            root.replicate(f"/{name}", f"{root.base}/{name}")
    copy = (
        f"{root.base}{spec['at']}"  # binds are recursive: of a folder that holds this root they hold it too
    )
    if os.path.ismount(copy):
        linux.detach(copy)
    hidden = f"{root.base}{spec['hidden']}"
    if os.path.isdir(hidden):
        linux.bind(root.fresh_folder(), hidden, read_only=True)


def _add_etc(root: Root, spec: RootSpec) -> None:
    own = f"{root.base}/etc"
    os.mkdir(own, 0o755)
    for name in os.listdir("/etc"):
        if name not in spec["etc"]:
            root.replicate(f"/etc/{name}", f"{own}/{name}")
    for name, source in spec["etc"].items():
        make_target(f"{own}/{name}", folder=False)
        linux.bind(source, f"{own}/{name}", read_only=True)


def _add_devices(root: Root) -> None:
    folder = f"{root.base}/dev"
    os.mkdir(folder, 0o755)
    for name in DEVICES:
        if os.path.exists(f"/dev/{name}"):
            make_target(f"{folder}/{name}", folder=False)
            linux.bind(f"/dev/{name}", f"{folder}/{name}", read_only=False)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{folder}/{name}")
    os.mkdir(f"{folder}/shm")
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("shm", f"{folder}/shm", "tmpfs", flags, f"mode=1777,size={SHM_SIZE}")


def _add_proc(root: Root) -> None:
    folder = f"{root.base}/proc"
    os.mkdir(folder, 0o755)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    try:
        linux.mount("proc", folder, "proc", flags)
    except PermissionError:  # parts of the host's own /proc are covered, as in a container
        linux.bind("/proc", folder, read_only=True)
        return
    for name in _READ_ONLY_PROC:
        if os.path.exists(f"{folder}/{name}"):
            linux.bind(f"{folder}/{name}", f"{folder}/{name}", read_only=True)


def _add_tmp(root: Root, spec: RootSpec) -> None:
    os.mkdir(f"{root.base}/run", 0o755)
    os.mkdir(f"{root.base}/tmp", 0o777)
    linux.bind(spec["tmp"], f"{root.base}/tmp", read_only=spec["read_only"])
