"""Names of tensors in LoRA files, whichever tool wrote them: the layer that each belongs to, and which of its matrices it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from mochi_trainer.lora.targets import PARTS, PROJECTIONS, Target

Kind = Literal["A", "B", "alpha"]
BY_DIFFUSERS: dict[str, Target] = {projection.diffusers: target for target, projection in PROJECTIONS.items()}
"""The target of each layer of Diffusers."""

PEFT = "base_model.model."
"""With it begin the names in files of peft, which keeps alpha in another file."""

PEFT_FILE = "adapter_model.safetensors"
"""The name of its files."""

_WRAPPERS = re.compile(r"(?:^module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What torch puts into the names of a model that it compiles, recomputes or shards, unless the tool takes it out again."""

_PREFIX = re.compile(rf"(?:{re.escape(PEFT)}|diffusion_model\.|transformer\.|model\.)*")
_KOHYA = re.compile(r"(?:lora_unet|lora_transformer|lycoris)_(transformer_blocks|blocks)_(\d+)_(\w+)")
_MODULE = re.compile(r"(transformer_blocks|blocks)\.(\d+)\.([\w.]+)")
_UNDERSCORED = {layer.replace(".", "_"): layer for layer in (*PARTS, *BY_DIFFUSERS)}
_ENDS = re.compile(
    r"(?P<stem>.+?)(?:"
    r"\.lora_(?P<matrix>A|B|down|up)(?:\.\w+)?|"  # with the adapter's name, .weight or neither
    r"\.lora_(?P<named>A|B)\.\w+\.weight|"
    r"[._]lora(?:_linear_layer)?\.(?P<old>down|up)\.weight|"
    r"\.(?P<alpha>alpha))"
)
_KINDS: dict[str, Kind] = {"A": "A", "down": "A", "B": "B", "up": "B", "alpha": "alpha"}
_OTHERS = {"A": "B", "B": "A", "down": "up", "up": "down"}


class Place(NamedTuple):
    """The layer that an adapter sits on."""

    fused: bool
    """Whether `layer` is one of the published checkpoint, as in `PARTS`, or one of Diffusers."""
    block: int
    layer: str

    @property
    def module(self) -> str:
        """The layer's name inside its transformer."""
        return f"{'' if self.fused else 'transformer_'}blocks.{self.block}.{self.layer}"


class Piece(NamedTuple):
    """One tensor of a file."""

    place: Place
    kind: Kind


def piece(name: str) -> Piece | None:
    """What the tensor called `name` is; None when it is nothing that an adapter of this model has."""
    ends = _ENDS.fullmatch(name)
    if ends is None or name.endswith(".bias"):
        return None
    place = _place(ends["stem"])
    kind = ends["matrix"] or ends["named"] or ends["old"] or ends["alpha"]
    return None if place is None else Piece(place, _KINDS[kind])


def _place(stem: str) -> Place | None:
    if kohya := _KOHYA.fullmatch(stem):
        blocks, number, layer = kohya[1], kohya[2], _UNDERSCORED.get(kohya[3], "")
    elif module := _MODULE.fullmatch(_PREFIX.sub("", _WRAPPERS.sub("", stem), count=1)):
        blocks, number, layer = module.groups()
    else:
        return None
    fused = blocks == "blocks"
    return Place(fused, int(number), layer) if layer in (PARTS if fused else BY_DIFFUSERS) else None


def canonical(found: Piece) -> str:
    """The name that Diffusers, or for a fused layer the published fine-tuner, gives to a matrix."""
    if found.place.fused:
        return f"{found.place.module}.lora_{found.kind}"
    return f"transformer.{found.place.module}.lora_{found.kind}.weight"


def other_half(name: str) -> str:
    """The name of the B that goes with an A, or the other way round, in the manner of the same tool."""
    ends = _ENDS.fullmatch(name)
    group = next((key for key in ("matrix", "named", "old") if ends and ends[key]), None)
    if ends is None or group is None:
        return f"{name.removesuffix('.alpha')}.lora_A.weight"
    return name[: ends.start(group)] + _OTHERS[ends[group]] + name[ends.end(group) :]


def in_our_manner(names: Iterable[str]) -> dict[str, str]:
    """The names of all matrices as Diffusers or the published fine-tuner write them, each with its own in the file.

    Names that are so already, with `transformer.` before Diffusers' or without, stay as they are. Alphas, and what is no
    matrix of this model, are left out.
    """
    found = {name: known for name in names if (known := piece(name)) is not None and known.kind != "alpha"}
    plain = all(_bare(name) == _bare(canonical(known)) for name, known in found.items())
    return {name if plain else canonical(known): name for name, known in found.items()}


def _bare(name: str) -> str:
    return name.removeprefix("transformer.")


def manner(names: Iterable[str]) -> str:
    """Whose way of naming it is, in words, by the first name that tells it."""
    for name in names:
        if (found := piece(name)) is None or found.kind == "alpha":
            continue
        if name.startswith(PEFT):
            return "peft's names"
        if name.startswith("diffusion_model."):
            return "ComfyUI's names"
        if _KOHYA.match(name):
            return "kohya's names"
        if _bare(name) == _bare(canonical(found)):
            return "native, fused names" if found.place.fused else "Diffusers' names"
        return "names of another tool"
    return "no names of adapters"
