"""Carry out a plan: what is outlived, creates, one status write, deletes, Events, in this order."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mochi_operator import names, observe
from mochi_operator.cluster import (
    CONFIGMAPS,
    KINDS,
    AlreadyExistsError,
    Cluster,
    ClusterError,
    Manifest,
    NotServedError,
    RefusedError,
    StaleError,
    UnavailableError,
)
from mochi_operator.events import event
from mochi_operator.plan import Note, Plan
from mochi_operator.snapshot import ObjectRef, Refusal, Snapshot

_log = logging.getLogger(__name__)


async def clear(cluster: Cluster, snapshot: Snapshot, children: Sequence[str]) -> None:
    """Delete the run files of children that are gone."""
    for child in children:
        await _delete_run_file(cluster, snapshot, child)


async def create(cluster: Cluster, snapshot: Snapshot, manifests: Sequence[Manifest]) -> tuple[Refusal, ...]:
    """Create children in order and stop at the first that cannot be; the answer says why, in the server's words.

    A child that exists already and is ours counts as created: the operator was stopped after it made it, or a second
    operator made it.
    """
    for manifest in manifests:
        refusal = await _create(cluster, snapshot, manifest)
        if refusal is not None:
            return (refusal,)
    return ()


async def finish(cluster: Cluster, snapshot: Snapshot, plan: Plan) -> None:
    """Write the status if it changes, then delete, then record Events; StaleError when somebody was faster.

    A status that the API server does not take is said in an Event: there is no other place on the run.
    """
    run = snapshot.run
    if plan.status is not None:
        try:
            await cluster.write_status(
                run.namespace, run.name, resource_version=run.resource_version, status=plan.status
            )
        except RefusedError as error:
            unwritten = Note(
                type="Warning", reason="StatusRefused", message=f"no status can be written: {error}"
            )
            await _record(cluster, snapshot, (*plan.notes, unwritten))
            raise
    for ref in plan.deletes:
        await _delete_run_file(cluster, snapshot, ref.name)
        _log.info("delete %s %s/%s", ref.kind, run.namespace, ref.name)
        await cluster.delete(KINDS[ref.kind], run.namespace, ref.name, uid=ref.uid)
    if plan.status is not None:
        await _record(cluster, snapshot, plan.notes)


async def _record(cluster: Cluster, snapshot: Snapshot, notes: Sequence[Note]) -> None:
    """Events on the run; one that is lost hinders nothing."""
    run = snapshot.run
    for note in notes:
        _log.info("%s/%s: %s: %s", run.namespace, run.name, note.reason, note.message)
        try:
            await cluster.record(run.namespace, event(run, note, snapshot.now))
        except ClusterError as error:
            _log.warning("event %s of %s/%s is lost: %s", note.reason, run.namespace, run.name, error)


async def _delete_run_file(cluster: Cluster, snapshot: Snapshot, child: str) -> None:
    """Delete the ConfigMap of a child, if it is this run's; being refused hinders nothing: it goes with the run."""
    run, name = snapshot.run, names.run_config(child)
    found = await cluster.get(CONFIGMAPS, run.namespace, name)
    if found is None or observe.owner_uid(found) != run.uid:
        return
    _log.info("delete %s %s/%s", CONFIGMAPS.name, run.namespace, name)
    try:
        await cluster.delete(CONFIGMAPS, run.namespace, name, uid=found["metadata"]["uid"])
    except RefusedError as error:
        _log.warning("run file %s/%s stays: %s", run.namespace, name, error)


async def _create(cluster: Cluster, snapshot: Snapshot, manifest: Manifest) -> Refusal | None:
    kind, name = KINDS[manifest["kind"]], manifest["metadata"]["name"]
    ref = ObjectRef(kind=kind.name, name=name, uid="")
    try:
        await cluster.create(kind, snapshot.run.namespace, manifest)
    except AlreadyExistsError:
        return await _existing(cluster, snapshot, manifest)
    except RefusedError as error:
        return Refusal(ref=ref, cause=error.cause, message=str(error))
    except NotServedError as error:
        return Refusal(ref=ref, cause="unserved", message=str(error))
    except StaleError as error:
        # Not of the object, which is new: two creates met at one ResourceQuota.
        return Refusal(ref=ref, cause="unavailable", message=str(error))
    except UnavailableError as error:
        # It may have taken effect: then the next pass finds the child, and adopts it.
        return Refusal(ref=ref, cause="unavailable", message=error.words)
    _log.info("created %s %s/%s", kind.name, snapshot.run.namespace, name)
    return None


async def _existing(cluster: Cluster, snapshot: Snapshot, manifest: Manifest) -> Refusal | None:
    kind, name, run = KINDS[manifest["kind"]], manifest["metadata"]["name"], snapshot.run
    found = await cluster.get(kind, run.namespace, name)
    if found is None:
        ref = ObjectRef(kind=kind.name, name=name, uid="")
        return Refusal(
            ref=ref, cause="unavailable", message="one of that name has just gone; it is made again"
        )
    if observe.owner_uid(found) == run.uid:
        return None
    ref = ObjectRef(kind=kind.name, name=name, uid=found["metadata"]["uid"])
    if observe.is_leftover(found, run):
        return Refusal(ref=ref, cause="leftover", message="belongs to a deleted run of the same name")
    return Refusal(ref=ref, cause="taken", message="exists and does not belong to this run")
