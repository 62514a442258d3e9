"""Whether what a ResourceQuota or a LimitRange refuses can fit once others have ended; read from the API server's
sentence, whose fixed parts are quoted from Kubernetes 1.34; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

_EXCEEDED = re.compile(
    r"exceeded quota: (?P<quota>[^\s,]+), requested: (?P<asked>\S+), used: \S+, limited: (?P<most>\S+)"
)
_UNCOVERED = re.compile(r"insufficient quota to (?:consume|match these scopes): ")
"""The API server lets only those have it whom some quota gives it, and this namespace has no such quota."""
_RANGE = re.compile(
    r"(?:minimum|maximum) \S+ usage per \S+ is |max limit to request ratio per \S+ is |: must specify \S"
)
"""What a LimitRange says, or a quota of a pod that does not say what it needs."""

_POWERS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}  # fmt: skip
_QUANTITY = re.compile(
    r"(?P<digits>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)(?P<suffix>[num]|k|[MGTPE]|[KMGTPE]i|)"
)
_GPUS = {
    "captions": "preprocessing.captions.gpus",
    "videos": "preprocessing.videos.gpus",
    "sample": "sampling.gpus",
    "preview": "sampling.gpus",
}
"""The field that a step's GPUs come from, where it is not the training's."""

_RAISE = "or have whoever runs the namespace raise the quota"


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """Something that no end of other pods makes fit."""

    message: str
    """What is asked, what is allowed; empty where the server's own words have both."""
    action: str
    """Whose move it is."""


def misfit(said: str, step: str, pods: int) -> Misfit | None:
    """Why a pod of `step` that was refused with these words can never run beside `pods - 1` others; None when it may."""
    if _UNCOVERED.search(said):
        return Misfit(
            message="no quota of the namespace allows it",
            action="correct workers.podTemplate.priorityClassName, or have whoever runs the namespace make such a quota",
        )
    if _RANGE.search(said):
        return Misfit(
            message="",
            action="correct workers.resources, or have whoever runs the namespace change what it allows",
        )
    exceeded = _EXCEEDED.search(said)
    if exceeded is None:
        return None
    for name, asked, most in _compared(exceeded["asked"], exceeded["most"]):
        if _closed(name, most):
            continue
        if _number(asked) * pods > _number(most):
            who = (
                f"{pods} pods that run at once ask for {asked} each of"
                if pods > 1
                else f"one pod asks for {asked} of"
            )
            return Misfit(
                message=f"{who} {name}, more than the {most} that quota {exceeded['quota']} allows in all",
                action=f"ask for less ({_field(name, step, pods)}), {_RAISE}",
            )
    return None


def closed(said: str) -> bool:
    """Whether a quota allows none of a kind of object, whatever its size: the namespace is shut, most likely for a while."""
    exceeded = _EXCEEDED.search(said)
    return exceeded is not None and any(
        _closed(name, most) for name, _, most in _compared(exceeded["asked"], exceeded["most"])
    )


def _field(name: str, step: str, pods: int) -> str:
    """The field of the spec that asks for it."""
    resource = name.removeprefix("requests.").removeprefix("limits.")
    if resource == "pods" or name.startswith("count/"):
        return "workers.replicas"
    if resource in ("cpu", "memory", "ephemeral-storage"):
        own = f"workers.resources.{'ephemeralStorage' if resource == 'ephemeral-storage' else resource}"
    else:
        own = _GPUS.get(step, "workers.gpusPerPod")
    return f"{own} or workers.replicas" if pods > 1 else own


def _closed(name: str, most: str) -> bool:
    return (name == "pods" or name.startswith("count/")) and _number(most) == 0


def _compared(asked: str, most: str) -> Iterator[tuple[str, str, str]]:
    """Resource, what is asked and what is allowed of it; what cannot be read is left out."""
    allowed = dict(_pairs(most))
    for name, value in _pairs(asked):
        limit = allowed.get(name)
        if limit is not None and _QUANTITY.fullmatch(value) and _QUANTITY.fullmatch(limit):
            yield name, value, limit


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if equals:
            yield name, value


def _number(text: str) -> Decimal:
    """A quantity as Kubernetes writes it."""
    found = _QUANTITY.fullmatch(text)
    assert found is not None, "only quantities are compared"
    return Decimal(found["digits"]) * _POWERS[found["suffix"]]
