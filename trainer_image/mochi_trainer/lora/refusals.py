"""Files that are no LoRA of this model: which method, tool or model their names belong to, and what to do with them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from mochi_trainer.lora.names import Place


class Refusal(NamedTuple):
    """Why a file is not read."""

    what: str
    """What it is, in words."""
    action: str
    """What can be done."""

    def __str__(self) -> str:
        return f"it is {self.what}; {self.action}"


_MERGE = "add it to the base with the tool that made it and use the weights (model.source, sample --model), or train a plain LoRA"
_AGAIN = "save the transformer's LoRA alone"
_THERE = "use it with that model"

_BY_NAME: tuple[tuple[str, Refusal], ...] = (
    (r"dora_scale|lora_magnitude_vector", Refusal("a DoRA, with magnitudes beside its matrices", _MERGE)),
    (r"\.hada_[wt]", Refusal("a LoHa of LyCORIS or peft", _MERGE)),
    (r"\.lokr_[wt]", Refusal("a LoKr of LyCORIS or peft", _MERGE)),
    (r"\.[ab][12]\.weight$", Refusal("a GLoRA of LyCORIS", _MERGE)),
    (r"\.(oft_\w+|boft_\w+)", Refusal("an OFT adapter", _MERGE)),
    (r"\.(ia3_l|on_input)", Refusal("an IA3 adapter", _MERGE)),
    (r"vera_lambda", Refusal("a VeRA adapter", _MERGE)),
    (r"\.(lora_mid|reshape_weight)", Refusal("a LoCon of LyCORIS, with a third matrix", _MERGE)),
    (r"\.(diff|diff_b|set_weight|w_norm|b_norm)$", Refusal("differences of whole weights or biases, as ComfyUI's node LoraSave can write them", "extract a standard LoRA there, with bias_diff off")),
    (r"^(?!.*lora).*\.weight$", Refusal("whole weights, or has some beside its matrices (modules_to_save in peft)", _AGAIN)),
    (r"\.lora_[AB](\.\w+)?\.bias$|\.bias$", Refusal("a LoRA with biases", "train it again without (bias='none' and lora_bias=False in peft)")),
    (r"^(lora_te|te\d?_|text_encoder|text_model|cond_stage_model|conditioner|t5xxl)", Refusal("a LoRA of a text encoder, which stays as it is here", _AGAIN)),
    (r"(self_attn|cross_attn)[._](q|k|v|o)\b|cross_attn[._]k_img", Refusal("a LoRA of Wan", _THERE)),
    (r"txt_in[._]individual_token_refiner|img_attn_qkv", Refusal("a LoRA of HunyuanVideo", _THERE)),
    (r"double_blocks|single_blocks|single_transformer_blocks", Refusal("a LoRA of Flux or HunyuanVideo", _THERE)),
    (r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp|img_mod|txt_mod)", Refusal("a LoRA of Qwen-Image", _THERE)),
    (r"joint_blocks|transformer_blocks[._]\d+[._]attn[._]", Refusal("a LoRA of Flux, Qwen-Image or Stable Diffusion 3", _THERE)),
    (r"transformer_blocks[._]\d+[._]attn2[._](to|norm)", Refusal("a LoRA of LTX-Video, Stable Diffusion or PixArt", _THERE)),
    (r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block|^unet\.", Refusal("a LoRA of Stable Diffusion", _THERE)),
    (r"context_refiner|noise_refiner", Refusal("a LoRA of Lumina or Z-Image", _THERE)),
    (r"model\.layers\.\d+\.self_attn\.", Refusal("a LoRA of a language model", _THERE)),
    (r"(x_embedder|t_embedder|t5_y_embedder|t5_yproj|mod_[xy]|final_layer|patch_embed|time_embed|norm_out|proj_out|norm1\.linear|norm1_context\.linear)\b.*lora", Refusal("a LoRA on layers of Mochi-1 other than attention and MLP", _MERGE)),
)  # fmt: skip
"""In this order: a method tells more than a model."""

COGVIDEOX_BLOCKS = 42
"""Its layers have the names and the width of Mochi's in Diffusers, but there are fewer."""


def refusal(names: Iterable[str]) -> tuple[str, Refusal] | None:
    """The tensor that tells what a file is, of those that are no adapter of this model, and what that is; None when none tells."""
    given = list(names)
    found = ((name, why) for pattern, why in _BY_NAME for name in given if re.search(pattern, name))
    return next(found, None)


def lookalike(places: Collection[Place], config: Mapping[str, Any]) -> Refusal | None:
    """A LoRA of another model whose names are the same as here; not asked of a file that says which blocks it is for."""
    blocks = {place.block for place in places}
    if config.get("layers_to_transform") or any(
        place.fused or place.layer.startswith(("attn1.add_", "attn1.to_add", "ff_context"))
        for place in places
    ):
        return None
    if blocks == set(range(COGVIDEOX_BLOCKS)):
        return Refusal(f"a LoRA of CogVideoX, for all of its {COGVIDEOX_BLOCKS} blocks", _THERE)
    return None


_INITIALISATIONS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of peft to start which change the base: the adapter fits the changed one only."""


def config_refusal(config: Mapping[str, Any]) -> Refusal | None:
    """The same by peft's configuration of the adapter."""
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        return Refusal(f"a {kind} adapter of peft", _MERGE)
    if config.get("use_dora"):
        return Refusal("a DoRA, with magnitudes beside its matrices", _MERGE)
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_INITIALISATIONS):
        return Refusal(
            f"a LoRA of a base that peft has changed ({start})",
            "save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
        )
    return None
