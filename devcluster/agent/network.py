"""Gives a container its own loopback without a network namespace: "all addresses" and localhost mean the pod's address.

A network namespace would cut the pod off from this machine, so pods share the machine's network. Two that listen on
0.0.0.0 and the same port would collide, or worse, answer for each other. So the container's `bind` and `connect` calls
stop in its parent (seccomp user notification), which rewrites the address in the caller's memory and lets it go on:

    0.0.0.0, 127.0.0.1                      -> the pod's address
    ::, ::1 (and IPv4 mapped ones)          -> ::ffff:<pod's address>
    ::, ::1 of a socket for IPv6 only       -> ::1 with any free port for `bind` (pods have no IPv6)

TCP only. This is a convenience, not a boundary: a program that wants to can get around it. Linux 5.6 on x86-64 and arm64; elsewhere
`install` returns None and pods share ports.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import platform
import socket
import struct
from dataclasses import dataclass

from devcluster.agent import linux

# machine -> (audit architecture, seccomp, bind, connect)
_CALLS = {"x86_64": (0xC000003E, 317, 49, 42), "aarch64": (0xC00000B7, 277, 200, 203)}
_SYS_PIDFD_OPEN = 434
_SYS_PIDFD_GETFD = 438
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_ALLOW = 0x7FFF0000
_NOTIFY = 0x7FC00000
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_CONTINUE = 1
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NOTICE = struct.Struct("=QII i I Q 6Q")
_ANSWER = struct.Struct("=QqiI")
_IPV4 = struct.Struct("=H2s4s")
_IPV6 = struct.Struct("=H2sI16sI")
_ANY_OR_LOCAL = frozenset({"0.0.0.0", "127.0.0.1"})  # noqa: S104 - addresses to be replaced
_ANY_OR_LOCAL_6 = frozenset({"::", "::1", *(f"::ffff:{ip}" for ip in _ANY_OR_LOCAL)})


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("yes", ctypes.c_ubyte),
        ("no", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def rewritten(address: bytes, pod_ip: str, *, ipv6_only: bool, binding: bool) -> bytes | None:
    """The socket address to use instead of `address` (a `sockaddr`); None to leave it as it is."""
    family = struct.unpack_from("=H", address)[0] if len(address) >= 2 else socket.AF_UNSPEC
    own = ipaddress.IPv4Address(pod_ip).packed
    if family == socket.AF_INET and len(address) >= _IPV4.size:
        _, port, ip = _IPV4.unpack_from(address)
        return _IPV4.pack(family, port, own) if str(ipaddress.IPv4Address(ip)) in _ANY_OR_LOCAL else None
    if family == socket.AF_INET6 and len(address) >= _IPV6.size:
        _, port, flow, ip, scope = _IPV6.unpack_from(address)
        if _text6(ip) not in _ANY_OR_LOCAL_6:
            return None
        if not ipv6_only:
            return _IPV6.pack(family, port, flow, b"\0" * 10 + b"\xff\xff" + own, scope)
        return _IPV6.pack(family, b"\0\0", 0, ipaddress.IPv6Address("::1").packed, 0) if binding else None
    return None


def _text6(ip: bytes) -> str:
    address = ipaddress.IPv6Address(ip)
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)


def install() -> int | None:
    """Make the calling thread's `bind` and `connect` ask first; returns the descriptor to `serve`, or None.

    Needs CAP_SYS_ADMIN in the caller's user namespace; what the caller becomes by `execve` is bound by it too.
    """
    if platform.machine() not in _CALLS:
        return None
    audit, seccomp, bind, connect = _CALLS[platform.machine()]
    code = (_Instruction * 7)(
        _Instruction(_LOAD, 0, 0, 4),
        _Instruction(_JUMP_IF_EQUAL, 0, 4, audit),
        _Instruction(_LOAD, 0, 0, 0),
        _Instruction(_JUMP_IF_EQUAL, 1, 0, bind),
        _Instruction(_JUMP_IF_EQUAL, 0, 1, connect),
        _Instruction(_RETURN, 0, 0, _NOTIFY),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    )
    program = _Program(len(code), code)
    listener = linux.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    return listener if listener >= 0 else None


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Answers the calls of one container; `shared_ports` are ports of 127.0.0.1 that stay the machine's."""

    listener: int
    pod_ip: str
    shared_ports: frozenset[int]

    def serve_one(self) -> bool:
        """Answer the call that waits; False when the container makes no more."""
        notice = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, notice, True)
        except OSError as error:
            return error.errno == errno.EINTR
        self._answer(notice)
        return True

    def _answer(self, notice: bytearray) -> None:
        ident, task, _, call, _, _, descriptor, address, length, *_ = _NOTICE.unpack(notice)
        with contextlib.suppress(OSError):  # a bad address or descriptor: the kernel will tell the caller
            self._rewrite(task, call, descriptor, address, length)
        with contextlib.suppress(OSError):  # the caller was killed meanwhile
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(ident, 0, 0, _CONTINUE))

    def _rewrite(self, task: int, call: int, descriptor: int, address: int, length: int) -> None:
        binding = call == _CALLS[platform.machine()][2]
        ipv6_only = _stream_is_ipv6_only(task, descriptor)
        if ipv6_only is None:
            return
        with open(f"/proc/{task}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 - unbuffered
            memory.seek(address)
            old = memory.read(min(length, 128))
            if not binding and _port(old) in self.shared_ports:
                return
            new = rewritten(old, self.pod_ip, ipv6_only=ipv6_only, binding=binding)
            if new is not None:
                memory.seek(address)
                memory.write(new)


def _port(address: bytes) -> int:
    return int.from_bytes(address[2:4], "big")


def _stream_is_ipv6_only(task: int, descriptor: int) -> bool | None:
    """Whether a TCP socket of another process has IPV6_V6ONLY set; None when it is no TCP socket.

    Datagram sockets are left alone: `getaddrinfo` connects some to sort the very addresses it is about to return.
    """
    pidfd = linux.syscall(_SYS_PIDFD_OPEN, _process_of(task), 0)
    if pidfd < 0:
        return None
    copy = linux.syscall(_SYS_PIDFD_GETFD, pidfd, descriptor, 0)
    os.close(pidfd)
    if copy < 0:
        return None
    try:
        other = socket.socket(fileno=copy)
    except OSError:  # not a socket
        os.close(copy)
        return None
    with other:
        if other.type != socket.SOCK_STREAM or other.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if other.family == socket.AF_INET:
            return False
        return bool(other.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _process_of(task: int) -> int:
    """The process a thread belongs to."""
    with open(f"/proc/{task}/status") as file:  # noqa: PTH123 - beside the unbuffered one
        return next((int(line.split()[1]) for line in file if line.startswith("Tgid:")), task)
