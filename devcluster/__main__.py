"""Command line: python -m devcluster up|down|status|kubeconfig|restart|build."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from devcluster import binaries, cluster, signals, state
from devcluster.addresses import AddressError

FAILED = 1
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="python -m devcluster", description="a local Kubernetes control plane"
    )
    commands = result.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "start a cluster, or say that it runs"),
        ("down", "end a cluster and delete its folder"),
        ("status", "list a cluster's parts"),
        ("kubeconfig", "print the path of a running cluster's kubeconfig"),
        ("restart", "kill a part of a running cluster and start it again"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--name", default="default", help="several clusters may run (default: %(default)s)"
        )
        command.add_argument("--dir", type=Path, help="state folder, instead of one chosen by name")
    _add_up_options(commands.choices["up"])
    commands.choices["restart"].add_argument(
        "part", help="a name that `status` shows, such as kube-apiserver"
    )
    build = commands.add_parser("build", help="build every program that is not there yet")
    build.add_argument(
        "tool", nargs="*", help=f"of {', '.join(tool.name for tool in binaries.TOOLS)} (default: all)"
    )
    return result


def _add_up_options(up: argparse.ArgumentParser) -> None:
    up.add_argument("--images", type=Path, help="JSON: image reference -> entrypoint, env")
    up.add_argument("--nodes", type=int, default=1, help="how many (%(default)s)")
    up.add_argument("--capacity", default="", help="what each node reports, such as nvidia.com/gpu=8")
    up.add_argument("--owner-pid", type=int, help="end the cluster when this process ends")
    up.add_argument(
        "--node-loss-seconds", type=int, default=20, help="silence until the node is lost (%(default)s)"
    )
    up.add_argument(
        "--eviction-seconds", type=int, default=15, help="pods stay on a lost node for (%(default)s)"
    )
    up.add_argument("--node-labels", default="", help="name=value,... of each node, over the usual ones")
    up.add_argument(
        "--terminated-pods", type=int, default=12500, help="pods that have ended and are kept (%(default)s)"
    )


def _config(arguments: argparse.Namespace) -> cluster.Config:
    if arguments.command != "up":
        return cluster.Config(name=arguments.name, dir=arguments.dir)
    return cluster.Config(
        name=arguments.name,
        dir=arguments.dir,
        images=arguments.images,
        nodes=arguments.nodes,
        capacity=arguments.capacity,
        owner=arguments.owner_pid,
        node_loss_seconds=arguments.node_loss_seconds,
        eviction_seconds=arguments.eviction_seconds,
        node_labels=arguments.node_labels,
        terminated_pods=arguments.terminated_pods,
    )


def _narrator() -> Callable[[str], None]:
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.1f} s] {text}\n")
        sys.stderr.flush()

    return say


def _up(arguments: argparse.Namespace) -> int:
    started = cluster.up(_config(arguments), _narrator())
    sys.stdout.write(f"export KUBECONFIG={started.kubeconfig}\n")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    was_there = cluster.down(_config(arguments).folder)
    sys.stdout.write("cluster is down\n" if was_there else "there is no such cluster\n")
    return 0


def _running(arguments: argparse.Namespace) -> cluster.Cluster:
    found = cluster.find(_config(arguments).folder)
    if found is None:
        raise cluster.ClusterError(
            f"cluster {arguments.name} does not run; start it with: python -m devcluster up"
        )
    return found


def _kubeconfig(arguments: argparse.Namespace) -> int:
    sys.stdout.write(f"{_running(arguments).kubeconfig}\n")
    return 0


def _restart(arguments: argparse.Namespace) -> int:
    _running(arguments).restart(arguments.part)
    sys.stdout.write(f"{arguments.part} runs again\n")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    found = state.read(_config(arguments).folder)
    if found is None:
        sys.stdout.write(f"cluster {arguments.name} does not exist\n")
        return FAILED
    rows = [("PART", "PID", "ADDRESS", "STATE", "SINCE")]
    supervisor = state.Part(name="supervisor", process=found.supervisor, address="", since=found.since)
    for part in (supervisor, *found.parts):
        since = datetime.fromtimestamp(part.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = "running" if part.process.alive() else "ended"
        rows.append((part.name, str(part.process.pid), part.address, condition, since))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    healthy = found.alive and found.ready and all(part.process.alive() for part in found.parts)
    return 0 if healthy else FAILED


def _build(arguments: argparse.Namespace) -> int:
    known = {tool.name: tool for tool in binaries.TOOLS}
    unknown = [name for name in arguments.tool if name not in known]
    if unknown:
        raise binaries.BinaryError(f"no tool {unknown[0]!r}; there are {', '.join(known)}")
    say = _narrator()
    for tool in [known[name] for name in arguments.tool] or binaries.TOOLS:
        paths = {program: binaries.find(program) for program in (*tool.packages, *tool.extras)}
        where = next(iter(paths.values()))
        if where is None or None in paths.values():
            say(f"{tool.name} is in {binaries.build(tool, say)}")
        else:
            say(f"{tool.name} is in {where.parent}")
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "kubeconfig": _kubeconfig,
    "restart": _restart,
    "build": _build,
}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    signals.handle(dict.fromkeys(signals.STOP, _interrupt))
    arguments = parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        sys.stderr.write("devcluster: interrupted; what was started is stopped\n")
        return INTERRUPTED
    except (cluster.ClusterError, state.StateError, binaries.BinaryError, AddressError, OSError) as error:
        sys.stderr.write(f"devcluster: {error}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
