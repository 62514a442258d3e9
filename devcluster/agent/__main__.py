"""Command line: run the agent; `evict` and `oom-kill` are hooks for tests of what a cluster does to pods."""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

from devcluster import signals
from devcluster.agent import hooks
from devcluster.agent import node as nodes
from devcluster.agent.agent import Agent, Options
from devcluster.agent.api import ApiError, read_kubeconfig
from devcluster.agent.resources import FIRST_HOST, LAST_HOST, address_pool

NOTICE = """devcluster agent: runs pods as processes of this machine. It does not provide
  isolation    pods share the network and read what you can read; they can write to their volumes only
  images       an image name stands for a command in {images}
  networking   no network policies, no kube-proxy: a Service name is the address of one ready pod, ports are the pod's;
               no DNS for pods, names are in /etc/hosts; UDP ports are shared with the machine
  limits       CPU, memory and storage limits are not enforced; GPUs are numbers without devices
  also absent  exec, port-forward, exec and grpc probes, preStop and postStart hooks
"""


def host_range(text: str) -> tuple[int, int]:
    """`10-129` as two numbers; `ValueError` when it is none."""
    first, _, last = text.partition("-")
    return int(first), int(last)


def parser() -> argparse.ArgumentParser:
    """The options of the agent itself."""
    result = argparse.ArgumentParser(prog="python -m devcluster.agent", description=__doc__)
    result.add_argument("--kubeconfig", type=Path, required=True)
    result.add_argument("--node-name", default="devcluster-0")
    result.add_argument("--node-ip", required=True, help="loopback address of the node, for the log server")
    result.add_argument("--pod-cidr", required=True, help="/24 below 127.0.0.0/8; pods get .10 to .250")
    result.add_argument("--pod-hosts", type=host_range, default=(FIRST_HOST, LAST_HOST), metavar="FIRST-LAST")
    result.add_argument("--state-dir", type=Path, required=True)
    result.add_argument(
        "--images", type=Path, required=True, help="JSON: image reference -> entrypoint, env, user, cwd"
    )
    result.add_argument("--capacity", default="", help="name=quantity,... over what the machine has")
    result.add_argument("--labels", default="", help="name=value,... of the node, over the usual ones")
    result.add_argument("--tls-cert", type=Path, help="for the log server; without it openssl makes one")
    result.add_argument("--tls-key", type=Path)
    result.add_argument(
        "--restart-back-off", type=float, default=10.0, help="seconds before the second restart"
    )
    result.add_argument("--log-level", default="INFO")
    return result


def options(arguments: argparse.Namespace) -> Options:
    """Checked options. `ValueError` and `OSError` say what is wrong."""
    capacity = nodes.machine_capacity() | nodes.parse_pairs(arguments.capacity, "capacity")
    return Options(
        access=read_kubeconfig(arguments.kubeconfig),
        node=nodes.NodeSpec(
            name=arguments.node_name,
            ip=arguments.node_ip,
            capacity=capacity,
            labels=nodes.parse_pairs(arguments.labels, "label"),
        ),
        addresses=address_pool(arguments.pod_cidr, *arguments.pod_hosts),
        state=arguments.state_dir.resolve(),
        images=arguments.images.resolve(),
        certificate=arguments.tls_cert,
        key=arguments.tls_key,
        back_off=arguments.restart_back_off,
    )


def check_namespaces() -> None:
    """Raise `OSError` when this user may not make user namespaces, with what to do about it."""
    script = "from devcluster.agent import linux; linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS);"
    script += "linux.map_user(10001, 0); linux.mount('none', '/', '', linux.MS_REC | linux.MS_SLAVE)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise OSError(
            f"this user can not make user and mount namespaces ({why}); allow it with "
            "'sysctl kernel.apparmor_restrict_unprivileged_userns=0' or 'sysctl user.max_user_namespaces=15000'"
        )


def serve(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    sys.stdout.write(NOTICE.format(images=arguments.images))
    sys.stdout.flush()
    check_namespaces()
    agent = Agent(options(arguments))
    stopped = threading.Event()
    signals.handle(
        {
            **dict.fromkeys(signals.STOP, lambda *_: stopped.set()),
            signal.SIGUSR1: lambda *_: agent.heartbeat.lose(),
            signal.SIGUSR2: lambda *_: agent.heartbeat.resume(),
        }
    )
    agent.start()
    stopped.wait()
    agent.stop()
    return 0


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    if argv and argv[0] in hooks.COMMANDS:
        arguments = hooks.parser().parse_args(argv)
        run = hooks.run
    else:
        arguments = parser().parse_args(argv)
        run = serve
        logging.basicConfig(
            level=arguments.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
        )
    try:
        return run(arguments)
    except (OSError, ValueError, ApiError) as error:
        sys.stderr.write(f"devcluster agent: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
