"""Where the training pods run, and whether their GPUs exchange over NVLink; told to people, no decision looks at it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mochi_api.prediction.seconds import traffic
from mochi_api.prediction.work import work_of
from mochi_operator import conditions
from mochi_operator.conditions import STARTING
from mochi_operator.plan import Draft
from mochi_operator.snapshot import Case
from mochi_operator.verdicts.finding import View

UNAVAILABLE = "NVLinkUnavailable"
MOST_GPUS = 8
"""Of one pod."""


def opened(case: Case, draft: Draft) -> Draft:
    """An attempt begins: where its pods will run is not known."""
    if case.resolved.gpus_per_pod == 0:
        return draft.set_condition("TopologyOptimal", "Unknown", "NoGPUs", "the training pods have no GPUs")
    return draft.set_condition("TopologyOptimal", "Unknown", STARTING)


def ended(draft: Draft, reason: str) -> Draft:
    """An attempt has failed: its pods are gone, and the next may run elsewhere."""
    told = conditions.find(draft.state, "TopologyOptimal")
    if told is None or told.status == "Unknown":
        return draft
    return draft.set_condition("TopologyOptimal", "Unknown", reason)


def told(case: Case, draft: Draft, view: View) -> Draft:
    """All pods run: pods on one node exchange through the network although the GPUs may be linked. Else as it was told."""
    nodes = Counter(pod.node for pod in view.pods if pod.running and pod.node)
    if not view.gpus or nodes.total() < view.expected:
        return draft
    if view.expected * view.gpus == 1:
        return draft.set_condition("TopologyOptimal", "True", "SingleGPU", "nothing is exchanged")
    if max(nodes.values()) == 1:
        return draft.set_condition("TopologyOptimal", "True", "OnePodPerNode", _spread(view))
    message = _shared(case, view, nodes)
    before = conditions.find(draft.state, "TopologyOptimal")
    draft = draft.set_condition("TopologyOptimal", "False", UNAVAILABLE, message)
    return draft if before is not None and before.status == "False" else draft.warning(UNAVAILABLE, message)


def _spread(view: View) -> str:
    if view.expected == 1:
        return f"one pod with {view.gpus} GPUs: they exchange over NVLink where they have it"
    return f"{view.expected} pods of {_gpus(view.gpus)} on as many nodes"


def _shared(case: Case, view: View, nodes: Mapping[str, int]) -> str:
    """What is, what it costs, and what would be better."""
    node, most = max(nodes.items(), key=lambda item: (item[1], item[0]))
    volume = traffic(work_of(case.spec))
    cost = f": {_bytes(volume)} for each GPU in each step" if volume else ""
    return (
        f"{most} training pods of {_gpus(view.gpus)} run on node {node}, and NCCL sends their gradients through the "
        f"network instead of NVLink, where the GPUs have it{cost}; {_better(view, nodes)}"
    )


def _better(view: View, nodes: Mapping[str, int]) -> str:
    counts = set(nodes.values())
    together = view.gpus * max(counts)
    if len(counts) > 1 or together > MOST_GPUS:
        return "fewer pods with more GPUs each (workers.replicas, gpusPerPod) would keep the exchange inside the pods"
    pods = "one pod" if len(nodes) == 1 else f"{len(nodes)} pods"
    return (
        f"{pods} with {together} GPUs (workers.replicas: {len(nodes)}, gpusPerPod: {together}) would keep the exchange "
        f"{'inside the pod' if len(nodes) == 1 else 'of each node inside its pod'}"
    )


def _gpus(count: int) -> str:
    return f"{count} {'GPU' if count == 1 else 'GPUs'}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
