"""Going on from another run: whether what it left fits. Nothing of it is changed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mochi_api import layout
from mochi_api.runfile import RunFile, RunFileError, parse
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.storage import Store, read_list
from mochi_trainer.train.misfits import MisfitError, OtherTrainingError
from mochi_trainer.train.places import Place, places
from mochi_trainer.train.terms import compare_terms, difference, terms_of

log = logging.getLogger(__name__)

ACTION = "correct training.resumeFrom, or leave it out to start anew"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The run that `run.training.resume_from` names, in `store`."""

    run: RunFile
    store: Store

    def check(self) -> Place:
        """Its newest complete checkpoint. Raises MissingObjectError when it has none, InvalidInputError when it does not fit."""
        place = newest(self.store)
        steps = self.run.training.steps
        if place is None:
            raise MissingObjectError(
                f"training.resumeFrom {self.store.address()} has no complete checkpoint "
                "(checkpoints/step-.../manifest.json)",
                action="name the folder of a run (storage.outputURI/runs/<uid>/) that has saved one, or leave "
                "training.resumeFrom out",
            )
        if place.step >= steps:
            raise InvalidInputError(
                f"training.steps must be more than the {place.step} that {self.store.address(place.prefix)} has, got {steps}",
                action="raise training.steps: they count from the start of the earlier run",
            )
        theirs = _run_file(self.store)
        if words := self._difference(theirs, place):
            raise InvalidInputError(
                f"training.resumeFrom {self.store.address()} does not fit: {words}", action=ACTION
            )
        if theirs is not None and self.run.mode == "lora" and _base(self.run) != _base(theirs):
            log.warning(
                "training.resumeFrom %s had its base at another address: on other weights its adapter does something else",
                self.store.address(),
            )
        if theirs is not None and _splits_otherwise(self.run, theirs):
            log.warning(
                "training.resumeFrom %s had other clips, or held others out: the loss of a clip that is held out here, and was "
                "trained on there, says less",
                self.store.address(),
            )
        return place

    def _difference(self, theirs: RunFile | None, place: Place) -> str:
        """Why the run cannot go on from `place`, beyond shapes, as far as the earlier run's file or the manifest tells."""
        ours = terms_of(self.run)
        if theirs is not None and (words := difference(ours, terms_of(theirs))):
            return words
        try:
            compare_terms(read_list(self.store, place.prefix).details, ours)
        except OtherTrainingError as error:
            return str(error)
        except (MissingObjectError, MisfitError):
            return ""  # training tries an older one
        return ""


def newest(store: Store) -> Place | None:
    """The newest checkpoint below `store` with a manifest; None without one."""
    found = places(info.key for info in store.list("checkpoints/"))
    return next((p for p in found if store.exists(layout.join(p.prefix, layout.MANIFEST))), None)


def _base(run: RunFile) -> tuple[object, ...]:
    """Where the base's weights lie: what they are is not told by an address, and to read them costs minutes."""
    return run.model.source, run.locations.model


def _splits_otherwise(ours: RunFile, theirs: RunFile) -> bool:
    """Whether a clip may be held out by `ours` that `theirs` trained on, as far as both know their clips yet."""
    if ours.training.validation.clips == 0 or not (ours.keys.videos and theirs.keys.videos):
        return False
    return (ours.keys, ours.training.validation.clips) != (theirs.keys, theirs.training.validation.clips)


def _run_file(store: Store) -> RunFile | None:
    """What the earlier run was asked for, as far as it can be told: its report leaves it."""
    try:
        return parse(store.read_bytes(layout.RUN_FILE).decode(), strict=False)
    except (MissingObjectError, RunFileError, UnicodeDecodeError):
        return None
