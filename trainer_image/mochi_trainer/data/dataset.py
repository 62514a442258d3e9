"""The embeddings of a run's clips, read from what the captions and videos stages stored when they are needed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_api.sizes import Bucket
from mochi_trainer.data.embeddings import Sample, TextFeatures, latents_in, text_in
from mochi_trainer.data.fetching import Fetching
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.model import DiTParams
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import Manifest, Store, entry_bytes, open_store, read_list, read_manifest

log = logging.getLogger(__name__)

EMPTY_PROMPT = "_empty.safetensors"
"""Features of the empty prompt, in the directory of the captions stage."""
KEPT_BYTES = 2 * 1024**3
"""Of host memory, for what was read; about 700 clips of 37 frames at 480p."""


class Files(NamedTuple):
    """What is stored of one clip, as it is stored."""

    clip: str
    video: bytes
    caption: bytes


class Dataset:
    """The clips that have both latents and caption features, by name; use it in a `with` block or call `close`.

    Nothing of a clip is read before it is asked for, or about to be. What comes is compared with the checksum that its stage
    wrote down.
    """

    def __init__(
        self,
        store: Store,
        videos: Manifest,
        captions: Manifest,
        *,
        params: DiTParams,
        room: int = KEPT_BYTES,
    ) -> None:
        self._store, self._videos, self._captions, self._params = store, videos, captions, params
        texts: dict[str, str] = captions.details["captions"]
        self.clips = tuple(sorted(set(videos.details["clips"]) & set(texts)))
        """Names, in order; an index means this order."""
        self.captions = tuple(texts[clip] for clip in self.clips)
        """Captions, in the same order."""
        sizes: dict[str, list[int]] = videos.details.get("sizes", {})
        self.sizes = tuple(Bucket(*sizes[clip]) for clip in self.clips) if sizes else ()
        """Frames, width and height of each clip, in the same order; empty where all have one size."""
        self._files = Fetching(self._read, [self._size(clip) for clip in self.clips], room=room)

    @classmethod
    def open(cls, run: RunFile, *, room: int = KEPT_BYTES, compared: bool = True) -> Dataset:
        """What the stages' lists have; `room` bytes of what is read stay in memory.

        `compared` with the storage: that every object is there. One rank that does so is enough. Raises MissingObjectError when a stage is not complete or an object is gone, InvalidInputError when a key is not set
        or no clip is left.
        """
        store = open_store(run.locations.cache, run.s3)
        videos = _stage_manifest(store, "videos", run.keys.videos, compared)
        captions = _stage_manifest(store, "captions", run.keys.captions, compared)
        dataset = cls(store, videos, captions, params=preset_named(run.model.preset).dit, room=room)
        if not dataset.clips:
            raise InvalidInputError(f"no clip has both latents and caption features in {store.address()}")
        log.info("dataset: %d clips in %s", len(dataset), store.address())
        return dataset

    def __len__(self) -> int:
        return len(self.clips)

    def sample(self, index: int) -> Sample:
        """Latents and caption features of one clip, on the CPU.

        Raises MissingObjectError when an object of it is gone, DamagedObjectError when one is not what was stored,
        InvalidInputError when it has not the tensors, or of other sizes than the model's, and what the store raises.
        """
        return self._sample(self._files.one(index))

    def samples(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The clips of `indices`, which may be long, in their order; the coming ones are read meanwhile. Raises as `sample`."""
        return map(self._sample, self._files.in_order(indices))

    def empty_text(self) -> TextFeatures:
        """Features of the empty prompt, which caption dropout and guidance use."""
        return text_in(entry_bytes(self._store, self._captions, EMPTY_PROMPT), EMPTY_PROMPT, self._params)

    def close(self) -> None:
        """Read nothing more."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _size(self, clip: str) -> int:
        name = _file(clip)
        return self._videos.entries[name].size + self._captions.entries[name].size

    def _read(self, index: int) -> Files:
        clip = self.clips[index]
        video, caption = (
            entry_bytes(self._store, stage, _file(clip)) for stage in (self._videos, self._captions)
        )
        return Files(clip, video, caption)

    def _sample(self, files: Files) -> Sample:
        name, params = _file(files.clip), self._params
        latents = latents_in(files.video, f"latents {name}", params)
        text = text_in(files.caption, f"features {name}", params)
        return Sample(clip=files.clip, latents=latents, text=text)


def _file(clip: str) -> str:
    return f"{clip}.safetensors"


def _stage_manifest(store: Store, stage: str, key: str, compared: bool) -> Manifest:
    if not key:
        raise InvalidInputError(
            f"keys.{stage} of the run file must name the output of the stage {stage}, got ''"
        )
    try:
        found = read_manifest if compared else read_list
        return found(store, layout.cache_entry("", stage, key))
    except MissingObjectError as error:
        raise MissingObjectError(f"output of the stage {stage} is not complete: {error}") from error
