"""What is trained on, in the few numbers that the formulas need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mochi_api import resolved
from mochi_api.prediction.sizes import NETWORKS, Network
from mochi_api.runfile import RunFile
from mochi_api.spec import (
    BucketSpec,
    FineTuneSpec,
    LoraSpec,
    Mode,
    PreprocessingSpec,
    Preset,
    Target,
    TrainingSpec,
)

PIXELS_PER_LATENT = 8
FRAMES_PER_LATENT = 6


@dataclass(frozen=True, kw_only=True)
class Work:
    """One training, as each of its ranks sees it."""

    mode: Mode
    network: Network
    frames: int
    width: int
    height: int
    rank: int = 16
    """Of the adapters; of no meaning with mode full."""
    targets: tuple[Target, ...] = ("query", "value")
    dropout: bool = False
    """Whether the adapters' input is dropped out."""
    narrow: bool = False
    """Whether the base's matrices in the blocks have one byte a number and a scale for each row."""
    swapped: int = 0
    """Blocks whose frozen matrices wait in host memory until they compute."""
    averaged: bool = False
    """Whether a moving average of the trained weights is kept."""
    world: int = 1
    """Ranks: GPUs of all training pods."""
    pods: int = 1
    """Training pods, each with as many of the ranks."""
    copies: int = 1
    """Of the weights of mode full, over all ranks: one, or one in each pod."""
    synchronise_once: bool = False
    """Whether the gradients of mode full are summed over the ranks with the last of several clips only."""
    context: int = 1
    """Ranks that share the tokens of each clip."""
    share: int = 1
    """Clips of a step on each rank, one after the other."""
    text: int = -1
    """Text tokens of a clip; -1 means the longest caption."""
    place: str = "preprocessing"
    """Where the spec has the size, such as `preprocessing.buckets[0]`."""

    @property
    def parts(self) -> int:
        """Ranks that hold one copy of the weights of mode full together."""
        return self.world // self.copies

    @property
    def text_tokens(self) -> int:
        """Text tokens of a clip."""
        return self.network.text_tokens if self.text < 0 else self.text

    @property
    def latent_frames(self) -> int:
        """Frames of the latents."""
        return (self.frames - 1) // FRAMES_PER_LATENT + 1

    @property
    def visual_tokens(self) -> int:
        """Patches of a clip."""
        side = PIXELS_PER_LATENT * self.network.patch
        return self.latent_frames * (self.height // side) * (self.width // side)

    @property
    def own_tokens(self) -> int:
        """Patches of a clip that a rank computes between attentions."""
        return -(-self.visual_tokens // self.context)

    @property
    def tokens(self) -> int:
        """Tokens that attend to each other."""
        return self.visual_tokens + self.text_tokens

    @property
    def compiled(self) -> bool:
        """Whether blocks are compiled on a GPU, unless the run says otherwise: not where some wait in host memory."""
        return not self.swapped

    @property
    def full(self) -> bool:
        """Whether all weights are trained."""
        return self.mode == "full"


def work_of(spec: FineTuneSpec) -> Work:
    """The work that a spec asks for, where its clips are largest: that decides the memory."""
    return largest(works_of(spec))


def works_of(spec: FineTuneSpec) -> tuple[Work, ...]:
    """The work that a spec asks for, for each size of its clips."""
    training, world = resolved.training(spec), resolved.processes(spec)
    return works(
        mode=spec.mode,
        preset=spec.model.preset,
        clips=spec.preprocessing,
        training=training,
        world=world,
        pods=resolved.replicas(spec),
    )


def work_of_run(run: RunFile) -> Work:
    """The work that a run file asks for, where its clips are largest."""
    return largest(works_of_run(run))


def works_of_run(run: RunFile) -> tuple[Work, ...]:
    """The work that a run file asks for, for each size of its clips."""
    return works(
        mode=run.mode,
        preset=run.model.preset,
        clips=run.preprocessing,
        training=run.training,
        world=run.world.processes,
        pods=run.world.replicas,
    )


def largest(works: Sequence[Work]) -> Work:
    """That with the most tokens; the first of several."""
    return max(works, key=lambda work: work.visual_tokens)


def works(
    *, mode: Mode, preset: Preset, clips: PreprocessingSpec, training: TrainingSpec, world: int, pods: int
) -> tuple[Work, ...]:
    """As `work`, for each size of the clips, the section's own one first."""

    def sized(size: PreprocessingSpec | BucketSpec) -> Work:
        return work(mode=mode, preset=preset, clips=size, training=training, world=world, pods=pods)

    further = (
        replace(sized(size), place=f"preprocessing.buckets[{index}]")
        for index, size in enumerate(clips.buckets)
    )
    return (sized(clips), *further)


def work(
    *,
    mode: Mode,
    preset: Preset,
    clips: PreprocessingSpec | BucketSpec,
    training: TrainingSpec,
    world: int,
    pods: int,
) -> Work:
    """The work of `world` ranks that share each step's clips; the adapter's usual shape where none is named."""
    lora, at_once = training.lora or LoraSpec(), max(1, world // training.context_parallel)
    return Work(
        mode=mode,
        network=NETWORKS[preset],
        frames=clips.frames,
        width=clips.width,
        height=clips.height,
        rank=lora.rank,
        targets=tuple(lora.targets),
        dropout=lora.dropout > 0,
        narrow=mode == "lora" and lora.base_weights != "BFloat16",
        swapped=lora.blocks_to_swap if mode == "lora" else 0,
        averaged=mode == "full" and training.ema is not None,
        world=world,
        pods=pods,
        context=training.context_parallel,
        share=max(1, (training.global_batch_size or at_once) // at_once),
    )
