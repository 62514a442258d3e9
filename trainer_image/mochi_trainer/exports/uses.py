"""How the exported files are used in each tool: the part of a card that every export shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mochi_api.spec import SamplingSpec
from mochi_trainer.exports.card import HUB_NAMES, Use

NANO_ONLY_HERE = (
    "`nano` is a small model of this project. Diffusers takes its transformer, LoRAs and text encoder; no other tool has its decoder. "
    "An export of `mochi-1` has the same names in the same files, and its card says how other tools take it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The videos that the snippets ask for; sizes in frames, pixels, and frames per second."""

    preset: str
    frames: int = 37
    width: int = 848
    height: int = 480
    fps: int = 30
    spec: SamplingSpec = field(default_factory=SamplingSpec)
    """Of the samples in the report, which the snippet for `nano` makes again."""

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
    if diffusers:
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
    if sampling.preset in HUB_NAMES:
        return Use(tool="Diffusers", text=text, code=_pipeline(sampling, "", lines), language="python")
    code = _nano_pipeline(sampling, _NANO_BASE, lines)
    return Use(tool="Diffusers", text=f"{text} {_NANO_IN_DIFFUSERS}", code=code, language="python")


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
    if sampling.preset not in HUB_NAMES:
        code = _nano_pipeline(
            sampling, f'transformer = MochiTransformer3DModel.from_pretrained("{folder}")\n'
        )
        return Use(tool="Diffusers", text=_NANO_IN_DIFFUSERS, code=code, language="python")
    lines = f'transformer = MochiTransformer3DModel.from_pretrained("{folder}", torch_dtype=torch.bfloat16)\n'
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


_NANO_IN_DIFFUSERS = (
    "Text encoder, transformer and steps run in Diffusers; the decoder is the trainer's. With the prompts, sizes and seed of "
    "the report's samples it makes these again, up to rounding."
)

_NANO_BASE = """\
base = weights.load_dit("nano")
transformer = MochiTransformer3DModel.from_config(diffusers_folder.config(base.params))
transformer.load_state_dict(diffusers_layout.dit_layout(base.state_dict(), base.params.depth))
"""

_NANO_PIPELINE = """\
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from mochi_trainer import presets, seeds, vae, video, weights
{imported}from transformers import ByT5Tokenizer

prompts = {prompts}
{transformer}pipe = MochiPipeline(
    scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    vae=None,
    text_encoder=weights.load_text_encoder("nano").model,
    tokenizer=ByT5Tokenizer(),
    transformer=transformer,
    force_zeros_for_empty_prompt=True,
)
{lora}decoder, statistics = weights.load_decoder("nano"), presets.preset_named("nano").latents
shape = vae.latent_shape({frames}, {height}, {width})
for number, prompt in enumerate(prompts):
    noise = torch.randn(1, 12, *shape, generator=seeds.stream({seed}, "sample", step=number))
    z = pipe(
        prompt, num_frames={frames}, height={height}, width={width}, num_inference_steps={steps}, guidance_scale={guidance},
        latents=noise, output_type="latent",
    ).frames
    frames = vae.to_frames(vae.decode_clip(decoder, vae.denormalise(z, statistics)))
    video.encode_mp4(frames, f"sample-{{number:02d}}.mp4", fps={fps})
"""


def _nano_pipeline(sampling: Sampling, transformer: str, lora: str = "") -> str:
    """Lines of Python that make the samples of a run of `nano` again, by the lines that make the `transformer`.

    The trainer drops white space around a prompt, Diffusers does not.
    """
    spec = sampling.spec
    prompts = [prompt.strip() for prompt in spec.prompts]
    imported = "from mochi_trainer.weights import diffusers_folder, diffusers_layout\n" if transformer == _NANO_BASE else ""  # fmt: skip
    return _NANO_PIPELINE.format(
        imported=imported, prompts=prompts or ["..."], transformer=transformer, lora=lora,
        frames=sampling.frames, height=sampling.height, width=sampling.width, fps=sampling.fps,
        seed=spec.seed, steps=spec.steps, guidance=float(spec.guidance),
    )  # fmt: skip
