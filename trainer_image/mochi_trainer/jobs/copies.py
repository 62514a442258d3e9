"""The trimmed copies of a run's clips, as the stage videos reads them: one that is gone or altered is cut again."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from mochi_api import resolved
from mochi_api.clips import ClipReason
from mochi_api.runfile import RunFile
from mochi_api.sizes import Bucket
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.errors import ClipError, MissingObjectError
from mochi_trainer.graph import Units
from mochi_trainer.jobs.cutting import Cutter, family, unit_of
from mochi_trainer.jobs.source_clips import SourceClip
from mochi_trainer.jobs.trimmed import Trimmed, TrimmedClip
from mochi_trainer.storage import DamagedObjectError, Store, get_entry, open_store
from mochi_trainer.video import Readers, read_frames
from mochi_trainer.video.reading import Frames

log = logging.getLogger(__name__)


def training_size(clip: TrimmedClip, spec: PreprocessingSpec) -> Bucket:
    """The size that a clip is trained in."""
    return clip.size if spec.buckets else resolved.buckets(spec)[0]


class Copies:
    """Frames of trimmed clips; any thread may ask."""

    def __init__(self, run: RunFile, cache: Store, trimmed: Trimmed, folder: Path) -> None:
        self._run, self._cache, self._trimmed, self._folder = run, cache, trimmed, folder

    def frames(self, clip: TrimmedClip) -> Frames:
        """The frames of training: (T, H, W, 3).

        Raises ClipError when the clip cannot be used, or its copy is gone and its source is gone too, or another by
        now than the one that the stage trim listed.
        """
        name = self._trimmed.copy_of(clip).name
        local = Path(tempfile.mkdtemp(dir=self._folder)) / "clip"
        try:
            get_entry(self._cache, self._trimmed.manifest, name, local)
        except (DamagedObjectError, MissingObjectError) as error:
            log.warning("the trimmed copy of %s is cut again: %s", clip.label, error)
            self._cut_again(clip)
            self._got_again(name, clip, local)
        try:
            return read_frames(local, training_size(clip, self._run.preprocessing).frames)
        finally:
            local.unlink()

    def _got_again(self, name: str, clip: TrimmedClip, local: Path) -> None:
        try:
            get_entry(self._cache, self._trimmed.manifest, name, local)
        except (DamagedObjectError, MissingObjectError) as error:
            raise ClipError(
                f"its trimmed copy is gone and cannot be made again, since {clip.source}, or the version that cuts it, "
                f"is another by now: {error}",
                ClipReason.UNREADABLE,
            ) from error

    def _cut_again(self, clip: TrimmedClip) -> None:
        spec = self._run.preprocessing
        source = open_store(self._run.locations.dataset, self._run.s3)
        info = source.head(clip.source)
        if info is None:
            raise ClipError(
                f"{source.address(clip.source)} is gone, and so is its trimmed copy in {self._cache.address()}",
                ClipReason.UNREADABLE,
            )
        found = SourceClip(name=clip.name, source=info, caption=None)
        key = unit_of(found, spec)
        with Readers(1) as readers:
            cutter = Cutter(source, {key: found}, spec, self._folder, readers, maker=self._run.run.uid)
            (made,) = cutter.cut([key])
        if "failure" in made.info:
            raise ClipError(made.info["failure"]["message"], ClipReason(made.info["failure"]["reason"]))
        Units(self._cache, "trim", family(spec)).put(key, made.files, made.info)
