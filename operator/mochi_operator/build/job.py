"""The Job of one stage around the training."""

from __future__ import annotations

from typing import Any

from mochi_api import identity
from mochi_api.outcomes import final_exit_codes
from mochi_operator.build.metadata import metadata
from mochi_operator.build.order import Order
from mochi_operator.build.pod import template
from mochi_operator.cluster import JOBS, Manifest

TRIES = 3
"""Pods after the first that may fail before the Job has failed."""
LONGEST_SECONDS = 7 * 24 * 3600
"""Bound on a stage that hangs, when the run has no deadline of its own."""


def stage_job(order: Order) -> Manifest:
    """The Job of `order.stage`; it carries no time to live, since its pod's last message is the stage's result."""
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.name,
        "metadata": metadata(order, order.child),
        "spec": {
            "backoffLimit": TRIES,
            "activeDeadlineSeconds": order.spec.run_policy.active_deadline_seconds or LONGEST_SECONDS,
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": template(order, container=identity.STAGE_CONTAINER),
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """An evicted pod is not the stage's fault; what no further try can mend ends the Job at once."""
    codes = {"containerName": identity.STAGE_CONTAINER, "operator": "In", "values": final_exit_codes()}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": codes},
    ]
