"""How the exported files are used in each tool: the part of a card that every export shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mochi_trainer.exports.card import HUB_NAMES, Use

NANO_ONLY_HERE = (
    "`nano` is a small model of this project: no other tool has its text encoder and decoder, so sample with the trainer. "
    "An export of `mochi-1` has the same names in the same files, and its card says how other tools take it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The video that the snippets ask for; sizes in frames, pixels, and frames per second."""

    preset: str
    frames: int = 37
    width: int = 848
    height: int = 480
    fps: int = 30

    @property
    def command(self) -> str:
        """The trainer's command but for the weights and the prompt."""
        size = f"--frames {self.frames} --width {self.width} --height {self.height} --fps {self.fps}"
        return f"python -m mochi_trainer sample --preset {self.preset} {size}"


def of_lora(
    sampling: Sampling, targets: Sequence[str], *, diffusers: str = "", native: str = ""
) -> list[Use]:
    """For the two formats of an adapter on `targets`; an empty name means that there is no such file."""
    published = sampling.preset in HUB_NAMES
    uses: list[Use] = []
    if published and diffusers:
        uses.append(_diffusers_lora(sampling, diffusers))
    if published and native:
        uses += _native_lora(native, mlp=any("mlp" in target for target in targets))
    if not published:
        uses.append(Use(tool="Other tools", text=NANO_ONLY_HERE))
    model = " --model DIR" if published else ""
    code = f'{sampling.command}{model} --lora {diffusers or native} --prompt "..."'
    uses.append(Use(tool="The trainer", text="Either format will do; `DIR` is the folder of the base model." if published else "Either format will do.", code=code))  # fmt: skip
    return uses


def _diffusers_lora(sampling: Sampling, name: str) -> Use:
    lines = f'pipe.load_lora_weights(".", weight_name="{name}")\n'
    text = "alpha / rank is folded into the B matrices, so the strength 1.0 is that of the training."
    return Use(tool="Diffusers", text=text, code=_pipeline(sampling, "", lines), language="python")


def _native_lora(name: str, *, mlp: bool) -> Iterator[Use]:
    yield Use(
        tool="ComfyUI",
        text=f"Put `{name}` into `ComfyUI/models/loras` and load it with the node *LoraLoaderModelOnly*, strength 1.0.",
    )
    if mlp:
        text = "It has no adapters on MLPs and leaves them out without a word. Use merged weights instead."
        yield Use(tool="The published inference code", text=text)
        return
    yield Use(
        tool="The published inference code",
        text="On one GPU. It reads rank and alpha in the file's metadata.",
        code=f'python3 ./demos/cli.py --model_dir weights/ --lora_path {name} --prompt "..."',
    )


def of_weights(sampling: Sampling, name: str) -> list[Use]:
    """For all weights under the published names."""
    if sampling.preset not in HUB_NAMES:
        return [Use(tool="Other tools", text=NANO_ONLY_HERE), _base(sampling, name)]
    comfy = Use(
        tool="ComfyUI",
        text=f"Put `{name}` into `ComfyUI/models/diffusion_models` and load it with the node *Load Diffusion Model*.",
    )
    published = Use(
        tool="The published inference code",
        text=f"`{name}` takes the place of `dit.safetensors` in its folder of weights.",
        code='python3 ./demos/cli.py --model_dir weights/ --prompt "..."',
    )
    return [comfy, published, _base(sampling, name)]


def _base(sampling: Sampling, name: str) -> Use:
    place = "" if name == "dit.safetensors" else " as `dit.safetensors`"
    text = (
        f"Put `{name}`{place} into a folder with the base model's `decoder.safetensors` and `t5/`. "
        "It can also be the base of a new run (`model.source`)."
    )
    return Use(tool="The trainer", text=text, code=f'{sampling.command} --model DIR --prompt "..."')


def of_diffusers_folder(sampling: Sampling, folder: str) -> Use:
    """For a folder that `MochiTransformer3DModel.from_pretrained` loads."""
    lines = f'transformer = MochiTransformer3DModel.from_pretrained("{folder}", torch_dtype=torch.bfloat16)\n'
    if sampling.preset not in HUB_NAMES:
        code = f"import torch\nfrom diffusers import MochiTransformer3DModel\n\n{lines}"
        return Use(tool="Diffusers", text="The transformer alone.", code=code, language="python")
    return Use(
        tool="Diffusers",
        text="The folder has the transformer; all other parts come from the base model.",
        code=_pipeline(sampling, lines, ""),
        language="python",
    )


def _pipeline(sampling: Sampling, before: str, after: str) -> str:
    """Lines of Python that make a video, with more of them before or after the pipeline is loaded."""
    base = HUB_NAMES.get(sampling.preset, sampling.preset)
    names, extra = ("MochiPipeline, MochiTransformer3DModel", "transformer=transformer, ") if before else ("MochiPipeline", "")  # fmt: skip
    return (
        f"import torch\nfrom diffusers import {names}\nfrom diffusers.utils import export_to_video\n\n"
        f'{before}pipe = MochiPipeline.from_pretrained("{base}", {extra}torch_dtype=torch.bfloat16)\n{after}'
        "pipe.enable_model_cpu_offload()\npipe.enable_vae_tiling()\n"
        f'video = pipe("...", num_frames={sampling.frames}, height={sampling.height}, width={sampling.width}).frames[0]\n'
        f'export_to_video(video, "sample.mp4", fps={sampling.fps})\n'
    )
