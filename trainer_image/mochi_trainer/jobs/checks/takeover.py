"""Whether the run that training is to go on from has something to go on from, before anything is paid for."""

from __future__ import annotations

from mochi_trainer.jobs.checks.findings import Findings
from mochi_trainer.jobs.checks.places import Places
from mochi_trainer.train.takeover import Earlier


def check_takeover(places: Places, findings: Findings) -> None:
    """Look at the newest checkpoint of `training.resumeFrom`, if there is one to look at."""
    address = places.run.training.resume_from
    if not address or not places.reachable(address):
        return
    with places.asking(address, findings):
        place = Earlier(places.run, places.store(address)).check()
        findings.checked.append(f"training can go on after step {place.step} of {address}")
