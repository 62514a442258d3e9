"""`python -m demo`: run it, stop a kept one, or forget what it kept."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from demo import devsite, embeddings, prerequisites, run
from demo.bucket import BucketError
from demo.clips import ClipsError
from demo.deadline import Deadline, DeadlineError
from demo.install import InstallError
from demo.kubectl import KubectlError
from demo.sites import NAMESPACE, Site, SiteError, current
from demo.steps import Steps
from devcluster import signals
from devcluster.addresses import AddressError
from devcluster.binaries import BinaryError
from devcluster.cluster import ClusterError
from devcluster.state import StateError

ROOT = Path(__file__).resolve().parents[1]
_INTRO = """\
mochi-operator demo, mode {mode}: {where}, then {what}.
{how_long} Ctrl-C stops it and cleans up."""
_PRETENDS = " (this cluster only pretends to have GPUs, so nano trains on the CPU)"
_ERRORS = (
    run.RunError, DeadlineError, BucketError, ClipsError, InstallError, KubectlError, SiteError,
    ClusterError, StateError, BinaryError, AddressError,
)  # fmt: skip


class Stopped(BaseException):
    """SIGTERM or SIGHUP: leave at once, cleaning up on the way out."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    result.add_argument("action", nargs="?", choices=("run", "stop", "clean"), default="run",
                        help="run it (default), stop a kept cluster, or stop it and forget kept embeddings")  # fmt: skip
    result.add_argument(
        "--mode", choices=("lora", "full"), default="lora", help="an adapter, or all weights in two pods"
    )
    result.add_argument("--gpus-per-pod", type=int, choices=range(9), default=0, metavar="N",
                        help="train in one pod with N GPUs, 1 to 8, and a process for each; default 0: as the example says")  # fmt: skip
    result.add_argument("--keep", action="store_true", help="leave the cluster up afterwards")
    result.add_argument("--fresh", action="store_true", help="do not reuse embeddings of an earlier demo")
    result.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the results")
    result.add_argument(
        "--time-limit", type=float, default=600, metavar="SECONDS", help="limit for everything, default 600"
    )
    result.add_argument("--cluster", choices=("dev", "current"), default="dev",
                        help="dev starts one on this machine; current takes the kubeconfig's context")  # fmt: skip
    other = result.add_argument_group("with --cluster current")
    other.add_argument("--namespace", default=NAMESPACE)
    other.add_argument("--bucket", default="", help="bucket for clips and results")
    other.add_argument("--s3-endpoint", default="", help="S3 as this machine reaches it; empty: AWS")
    other.add_argument("--pod-s3-endpoint", default="", help="S3 as the pods reach it; empty: the same")
    return result


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


_HANDLERS: Mapping[signal.Signals, signals.Handler] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: _stop,
    signal.SIGHUP: _stop,
}
"""Every request to stop becomes an exception, so that the way out cleans up."""


def intro(arguments: argparse.Namespace) -> str:
    """What will happen and how long it takes."""
    dev = arguments.cluster == "dev"
    return _INTRO.format(
        mode=arguments.mode,
        where="a Kubernetes control plane starts on this machine" if dev else "in the current cluster",
        what=_what(arguments.mode, arguments.gpus_per_pod)
        + (_PRETENDS if dev and arguments.gpus_per_pod else ""),
        how_long="Under 5 minutes on 2 cores; nothing runs afterwards, no root and no container engine is needed."
        if dev and not arguments.keep
        else "Under 5 minutes on 2 cores.",
    )


def _what(mode: str, gpus: int) -> str:
    made = "a real clip becomes a LoRA" if mode == "lora" else "three real clips become a tuned model"
    if gpus:
        return f"{made}, trained by one pod with {gpus} {'process, on a GPU' if gpus == 1 else 'processes, one for each GPU'}"
    return made if mode == "lora" else f"{made}, trained by two pods"


def _on(site: Site, arguments: argparse.Namespace, deadline: Deadline, steps: Steps, *, kept: bool) -> None:
    options = run.Options(
        root=ROOT,
        mode=arguments.mode,
        gpus_per_pod=arguments.gpus_per_pod,
        out=arguments.out,
        kept_embeddings=None
        if arguments.fresh or arguments.cluster != "dev"
        else embeddings.default_folder(),
    )
    made = run.run(site, options, deadline, steps)
    for line in run.next_commands(site, made, mode=arguments.mode, kept=kept):
        steps.line(line)


def _run_dev(arguments: argparse.Namespace, deadline: Deadline, steps: Steps) -> None:
    with devsite.dev(ROOT, deadline, steps, keep=arguments.keep) as site:
        _on(site, arguments, deadline, steps, kept=arguments.keep)


def _run_current(arguments: argparse.Namespace, deadline: Deadline, steps: Steps) -> None:
    site = current(
        namespace=arguments.namespace,
        bucket=arguments.bucket,
        s3_endpoint=arguments.s3_endpoint,
        pod_endpoint=arguments.pod_s3_endpoint,
    )
    try:
        _on(site, arguments, deadline, steps, kept=arguments.keep)
    finally:
        if not arguments.keep:
            run.remove(site, arguments.mode, ROOT)


def demonstrate(arguments: argparse.Namespace, steps: Steps) -> int:
    """Check the machine, run the demo, and say how it ended; return the exit code."""
    deadline = Deadline(arguments.time_limit)
    lacking = prerequisites.lacking() if arguments.cluster == "dev" else []
    for line in lacking:
        steps.line(f"missing: {line}")
    if lacking:
        return 1
    steps.line(intro(arguments))
    try:
        (_run_dev if arguments.cluster == "dev" else _run_current)(arguments, deadline, steps)
    except _ERRORS as error:
        steps.line(f"\n✗ {error}")
        return 1
    steps.line(f"done in {run.took(deadline)}")
    return 0


def tidy(arguments: argparse.Namespace, steps: Steps) -> int:
    """Stop a kept cluster; with `clean` forget the embeddings too."""
    stopped = devsite.stop()
    steps.line("the demo's cluster is stopped" if stopped else "no cluster of the demo runs")
    if arguments.action == "clean" and embeddings.forget(embeddings.default_folder()):
        steps.line(f"removed the embeddings in {embeddings.default_folder()}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 130 after Ctrl-C, 143 after SIGTERM or SIGHUP."""
    arguments = parser().parse_args(argv)
    steps = Steps(Console())
    try:
        with signals.handled(_HANDLERS):
            return demonstrate(arguments, steps) if arguments.action == "run" else tidy(arguments, steps)
    except KeyboardInterrupt:
        steps.line("\nstopped by Ctrl-C; everything is cleaned up")
        return 130
    except Stopped as signal_name:
        steps.line(f"\nstopped by {signal_name}; everything is cleaned up")
        return 143


if __name__ == "__main__":
    sys.exit(main())
