"""Events on a run, as `kubectl describe` shows them; pure."""

from __future__ import annotations

import hashlib
from datetime import datetime

from mochi_api import identity
from mochi_operator.cluster import EVENTS, Manifest
from mochi_operator.plan import Note
from mochi_operator.snapshot import Run
from mochi_operator.timestamps import render

COMPONENT = "mochi-operator"


def event(run: Run, note: Note, now: datetime) -> Manifest:
    """One Event. Its name follows from what it says, so that saying it twice makes no second object."""
    text = f"{run.uid}/{note.type}/{note.reason}/{note.message}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.name,
        "metadata": {"name": f"{run.name}.{digest}", "namespace": run.namespace},
        "involvedObject": {
            "apiVersion": identity.API_VERSION,
            "kind": identity.KIND,
            "name": run.name,
            "namespace": run.namespace,
            "uid": run.uid,
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message[:1024],
        "count": 1,
        "firstTimestamp": render(now),
        "lastTimestamp": render(now),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
    }
