"""A whole guided sample against the pipeline of Diffusers, from the same noise, with the same weights."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from torch import Tensor

from mochi_trainer.flow import Prompt, euler, guided, linear_quadratic_schedule
from mochi_trainer.weights.diffusers_layout import dit_layout
from tests.trainer.numerics import TINY, Float64, difference, draw, tiny_dit

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, GUIDANCE = 4, 6.0
TOKENS = {"one caption": [7], "two captions": [7, 3]}


def theirs(dtype: torch.dtype) -> MochiTransformer3DModel:
    model = MochiTransformer3DModel(
        num_attention_heads=TINY.heads,
        attention_head_dim=TINY.head_width,
        num_layers=TINY.depth,
        pooled_projection_dim=TINY.text_width,
        text_embed_dim=TINY.text_feature_width,
        time_embed_dim=TINY.timestep_width,
    )
    model.load_state_dict(dit_layout(tiny_dit(dtype).state_dict(), TINY.depth), strict=True)
    return model.to(dtype).eval()


class ExactLevels(FlowMatchEulerDiscreteScheduler):
    """The scheduler of Diffusers without its rounding of the noise levels to float32."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        rounded = self.sigmas
        done = [1 - sigma for sigma in linear_quadratic_schedule(STEPS)]
        self.sigmas = torch.tensor(done, dtype=torch.float64)
        self.timesteps = 1000 * self.sigmas[:-1]
        torch.testing.assert_close(self.sigmas.float(), rounded.float())


def scheduler(dtype: torch.dtype) -> FlowMatchEulerDiscreteScheduler:
    """As in the published folder of Diffusers."""
    kind = ExactLevels if dtype == torch.float64 else FlowMatchEulerDiscreteScheduler
    return kind(num_train_timesteps=1000, shift=1.0, invert_sigmas=True)


def inputs(lengths: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    noise = draw(len(lengths), 12, 3, 6, 10, seed=1, dtype=dtype)
    text = draw(len(lengths), 9, TINY.text_feature_width, seed=2, dtype=dtype)
    return noise, text, torch.arange(9)[None] < torch.tensor(lengths)[:, None]


def sample_of_diffusers(noise: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    pipeline = MochiPipeline(
        scheduler=scheduler(noise.dtype),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=theirs(noise.dtype),
    )
    pipeline.set_progress_bar_config(disable=True)
    lifted = noise.dtype == torch.float64
    with Float64() if lifted else nullcontext():
        return pipeline(
            prompt_embeds=text,
            prompt_attention_mask=mask,
            negative_prompt_embeds=torch.zeros_like(text),
            negative_prompt_attention_mask=torch.zeros_like(mask),
            latents=noise,
            height=48,
            width=80,
            num_frames=13,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="latent",
            return_dict=False,
        )[0]


@torch.no_grad()
def our_sample(noise: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    prompt, empty = Prompt(text, mask), Prompt(text[:, :0])
    lifted = noise.dtype == torch.float64
    with Float64() if lifted else nullcontext():
        *_, z = euler(
            guided(tiny_dit(noise.dtype), prompt, empty, GUIDANCE), noise, linear_quadratic_schedule(STEPS)
        )
    return z


@pytest.mark.parametrize("lengths", TOKENS.values(), ids=TOKENS.keys())
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_four_guided_steps_end_where_the_pipeline_of_diffusers_ends(
    lengths: list[int], dtype: torch.dtype, bound: float
) -> None:
    case = inputs(lengths, dtype)
    ours, expected = our_sample(*case), sample_of_diffusers(*case)
    assert difference(ours, expected) <= bound
    assert difference(case[0], expected) > 0.1
