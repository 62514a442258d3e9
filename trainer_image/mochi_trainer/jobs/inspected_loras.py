"""What the command inspect says of a LoRA file: of which tool, for which preset and layers, or why it is none that can be used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mochi_trainer.lora.importing import CONFIG, NOTHING
from mochi_trainer.lora.names import PEFT, in_our_manner, manner, piece
from mochi_trainer.lora.refusals import Refusal, config_refusal, lookalike, refusal
from mochi_trainer.lora.scales import Scales, native_config, peft_config
from mochi_trainer.lora.targets import PARTS, PROJECTIONS
from mochi_trainer.weights.forms import Form, Shapes, nearest
from mochi_trainer.weights.stored import Header

_ADAPTED = re.compile(r"lora|hada_|lokr_|oft_|ia3_|vera_")
_EXPORT = "for Diffusers: export FILE --to diffusers; for ComfyUI: export FILE --to native"
_ADVICE = {
    "Diffusers' names": "pass it to load_lora_weights of Diffusers; for ComfyUI: export FILE --to native",
    "native, fused names": "put it into the loras folder of ComfyUI; for Diffusers: export FILE --to diffusers",
    "ComfyUI's names": f"put it into the loras folder of ComfyUI; {_EXPORT}",
}
"""By whose names the file has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was found."""

    what: str
    """Part, layout and preset in words."""
    advice: str
    """What to do with the file, one sentence."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What this kind of file has beyond names and shapes."""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    """Tensors of another shape, described."""

    @property
    def whole(self) -> bool:
        """Whether no tensor is missing, extra or of a wrong shape."""
        return not (self.missing or self.extra or self.wrong)


def looks_adapted(names: Iterable[str]) -> bool:
    """Whether the names are those of an adapter of some kind, for whatever model."""
    return any(_ADAPTED.search(name) for name in names)


def inspected_lora(header: Header, beside: Mapping[str, Any] = NOTHING) -> Inspection | None:
    """What a LoRA with this header is; None for a file of another kind, or a LoRA none of whose names is known."""
    own = in_our_manner(header.tensors)
    if not own:
        return None
    shapes = {name: header.shapes[mine] for name, mine in own.items()}
    strange = [name for name in header.tensors if piece(name) is None]
    form, why = nearest(shapes), _refusal(header, strange, beside)
    if form is None or why is not None:
        why = why or Refusal("LoRA of another model or layout", "do not use it here")
        return Inspection(what=why.what, advice=why.action, extra=tuple(strange))
    return _fitting(header, form, shapes, own, strange, beside)


def _refusal(header: Header, strange: list[str], beside: Mapping[str, Any]) -> Refusal | None:
    try:
        config = peft_config(header.metadata, beside)
        Scales(config, header.metadata)
    except ValueError as error:
        return Refusal(f"a LoRA that cannot be read: {error}", "get the file again")
    places = {known.place for name in header.tensors if (known := piece(name)) is not None}
    told = refusal(strange)
    return told[1] if told else config_refusal(config) or lookalike(places, config)


def _fitting(
    header: Header,
    form: Form,
    shapes: Shapes,
    own: Mapping[str, str],
    strange: list[str],
    beside: Mapping[str, Any],
) -> Inspection:
    missing, extra, wrong = form.misfits(shapes)
    fits = not (missing or extra or wrong or strange)
    whose = manner(header.tensors)
    use = f"sample with it (sample --lora FILE), or {_ADVICE.get(whose, f'go on from it (startFrom); {_EXPORT}')}; into the base's weights: export FILE --to merged"
    return Inspection(
        what=f"LoRA, {whose}, {'fits' if fits else 'nearest to'} {form.preset}",
        advice=use
        if fits
        else f"do not use it: it does not fit {form.preset}; get the file again, or name the right model",
        facts=_facts(form, header, shapes, beside),
        missing=tuple(missing),
        extra=(*(own[name] for name in extra), *strange),
        wrong=tuple(_with_own_name(text, own) for text in wrong),
    )


def _with_own_name(text: str, own: Mapping[str, str]) -> str:
    name, blank, rest = text.partition(" ")
    return own.get(name, name) + blank + rest


def _facts(form: Form, header: Header, shapes: Shapes, beside: Mapping[str, Any]) -> dict[str, str]:
    layers = {re.sub(r".*blocks\.\d+\.|\.lora_[AB].*", "", name) for name in shapes}
    if form.layout == "diffusers":
        targets = [
            str(target) for target, projection in PROJECTIONS.items() if projection.diffusers in layers
        ]
    else:
        targets = [f"{layer} ({', '.join(PARTS[layer])})" for layer in PARTS if layer in layers]
    ranks = {shape[0] for name, shape in shapes.items() if ".lora_A" in name and len(shape) == 2}
    return {
        "targets": ", ".join(targets),
        "rank": ", ".join(map(str, sorted(ranks))),
        "alpha": _alpha(form, header, beside),
    }


def _alpha(form: Form, header: Header, beside: Mapping[str, Any]) -> str:
    if any(name.endswith(".alpha") for name in header.tensors):
        return "in tensors of its own, layer by layer"
    config = peft_config(header.metadata, beside)
    if config:
        kind = ", rank-stabilised" if config.get("use_rslora") else ""
        others = f", others for {', '.join(config['alpha_pattern'])}" if config.get("alpha_pattern") else ""
        return f"{config.get('lora_alpha')}{others}{kind} ({CONFIG if beside else 'metadata'})"
    if any(name.startswith(PEFT) for name in header.tensors):
        return f"not known: {CONFIG} must lie beside the file"
    if form.layout == "native":
        return _native_alpha(header)
    alpha = header.metadata.get("alpha")
    return f"{alpha} in training; alpha / rank is folded into B" if alpha else "taken to be folded into B"


def _native_alpha(header: Header) -> str:
    kwargs = native_config(header.metadata)
    alphas = [f"{kwargs[key]} ({key})" for key in sorted(kwargs) if key.endswith("_lora_alpha")]
    return ", ".join(alphas) or "not given; loaders take the rank"
