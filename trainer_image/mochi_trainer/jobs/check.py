"""The command check: everything about a run that can be known before anything is paid for, in less than a minute.

All that is wrong is told at once. No clip and no weight is read, only listings, captions and headers; S3 through one
client of little patience, and whatever waits is given up in time, by name.
"""

from __future__ import annotations

import logging

from mochi_api import layout
from mochi_api.outcomes import Reason
from mochi_api.runfile import RunFile
from mochi_trainer.errors import StorageError
from mochi_trainer.jobs.checks.dataset import check_dataset
from mochi_trainer.jobs.checks.findings import Findings
from mochi_trainer.jobs.checks.places import Limits, Places
from mochi_trainer.jobs.checks.results import check_results
from mochi_trainer.jobs.checks.takeover import check_takeover
from mochi_trainer.jobs.checks.watch import Watch, run_watched
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.report.publishing import publish
from mochi_trainer.report.record import StageRecord
from mochi_trainer.storage import Connection

log = logging.getLogger(__name__)

LOADING_SECONDS = 600.0
"""For the libraries: seconds on a node that is free, a minute and more on one whose processors many pods share."""


def execute(run: RunFile, limits: Limits | None = None) -> Finished:
    """Look at storage, dataset, model and startFrom.

    Raises one error for all problems, of the kind of the most final one; a place that does not answer is a StorageError.
    """
    limits = limits or Limits()
    watch, findings = Watch(limits.total_seconds), Findings()
    late = run_watched(watch, lambda: _look(Places(run, limits, watch), findings, watch))
    if late is not None:
        findings.problems.append(late)
    for warning in findings.warnings:
        log.warning("%s", warning)
    for problem in findings.ordered():
        log.error("%s: %s", problem.reason, problem)
    if findings.problems:
        raise findings.joined()
    remarks = f", {len(findings.warnings)} warnings" if findings.warnings else ""
    return Finished(result=findings.result(), message=f"{findings.clips} clips are ready to be used{remarks}")


def publish_in_time(run: RunFile, record: StageRecord, limits: Limits | None = None) -> str:
    """Write record and report as the other stages do, but as impatiently as the check itself; return the address.

    Raises StorageError at once when the check has ended so: what does not answer is not asked again.
    """
    if record.outcome.reason is Reason.STORAGE_ERROR:
        raise StorageError("the store has not answered the check")
    limits = limits or Limits()
    address = layout.join(run.locations.run, layout.REPORT)
    connection = Connection(run.s3, limits.patience)

    def write() -> None:
        publish(run, record, connection)

    if late := run_watched(Watch(limits.report_seconds, address), write):
        raise late
    return address


def _look(places: Places, findings: Findings, watch: Watch) -> None:
    check_results(places, findings)
    check_takeover(places, findings)
    check_dataset(places, findings)
    with watch.busy("loading torch", LOADING_SECONDS):
        from mochi_trainer.jobs.checks import model  # what is above is known without it
    with findings.problem("the model"):
        model.check_model(places, findings)
    with findings.problem("startFrom"):
        model.check_adapter(places, findings)
