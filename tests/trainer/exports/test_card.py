"""The card of a run says, for people and for hubs, what the files are, where they come from and how to use them."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import yaml

from mochi_api.runfile import RunFile
from mochi_api.spec import LoraSpec
from mochi_trainer.exports.card import Artifact, Card, Use, fenced, render
from mochi_trainer.exports.run_card import Facts, run_card
from tests.trainer.training_runs import run_file

FACTS = Facts(
    clips=24,
    base_identity="mochi-1-" + "a" * 32,
    steps=2000,
    final_loss=0.25,
    fixed_before=0.5,
    fixed_after=0.125,
    skipped=3,
    trained_parameters=9_437_184,
    ranks=1,
    device="NVIDIA H100 80GB HBM3",
    seconds=7654.321,
)


def published(root: Path, mode: str, replicas: int = 1) -> RunFile:
    """A run of the published model, as the operator writes its run file."""
    document = run_file(root, mode=mode, name="dissolve", replicas=replicas).to_wire()
    document["model"] = {"preset": "mochi-1", "source": {"s3": {"uri": "s3://models/mochi-1-preview/"}}}
    document["dataset"] = {"source": {"s3": {"uri": "s3://datasets/dissolve/"}}}
    document["preprocessing"] |= {"frames": 37, "width": 848, "height": 480}
    document["locations"]["run"] = "s3://runs/dissolve/runs/0-1"
    return RunFile.model_validate(document)


def files(*names: str) -> list[Artifact]:
    return [
        Artifact(name=name, uri=f"s3://runs/{name}", sha256=f"{number}" * 64, size_bytes=1000 + number)
        for number, name in enumerate(names)
    ]


def snippets(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def test_the_card_of_a_published_lora_says_how_each_tool_takes_it(tmp_path: Path) -> None:
    card = run_card(published(tmp_path, "lora"), FACTS, files("lora.safetensors", "lora-comfyui.safetensors"))
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["base_model"], head["base_model_relation"]) == ("genmo/mochi-1-preview", "adapter")
    (diffusers,) = snippets(card, "python")
    ast.parse(diffusers)
    assert 'pipe.load_lora_weights(".", weight_name="lora.safetensors")' in diffusers
    assert "num_frames=37, height=480, width=848" in diffusers
    assert "Put `lora-comfyui.safetensors` into `ComfyUI/models/loras`" in card
    assert "--lora_path lora-comfyui.safetensors" in card
    sample = "python -m mochi_trainer sample --preset mochi-1 --frames 37 --width 848 --height 480 --fps 30"
    assert f'{sample} --model DIR --lora lora.safetensors --prompt "..."' in card
    assert "aws s3 cp s3://runs/dissolve/runs/0-1/run.yaml run.yaml" in card
    for line in (
        "| source | s3://models/mochi-1-preview/ |",
        f"| identity | {FACTS.base_identity} |",
        "| source | s3://datasets/dissolve/ |",
        "| clips | 24 |",
        "| loss of the fixed batch, before | 0.5 |",
        "| loss of the fixed batch, after | 0.125 |",
        "| steps skipped (loss or gradient not finite) | 3 |",
        "| trained parameters | 9,437,184 |",
        "| device | NVIDIA H100 80GB HBM3 |",
        "| duration of all steps | 7654.3 s |",
        f"| lora-comfyui.safetensors | 1001 | {'1' * 64} |",
    ):
        assert f"\n{line}\n" in card
    assert "Merged weights" not in card


def test_what_the_published_code_would_leave_out_is_told(tmp_path: Path) -> None:
    run = published(tmp_path, "lora")
    lora = LoraSpec(targets=["query", "text_mlp_in"])
    run = run.model_copy(update={"training": run.training.model_copy(update={"lora": lora})})
    card = run_card(run, FACTS, files("lora.safetensors", "lora-comfyui.safetensors"))
    assert "It has no adapters on MLPs and leaves them out without a word." in card
    assert "--lora_path" not in card


def test_merged_weights_are_explained_where_they_are(tmp_path: Path) -> None:
    card = run_card(published(tmp_path, "lora"), FACTS, files("lora.safetensors", "dit-merged.safetensors"))
    assert "### Merged weights\n\n`dit-merged.safetensors` is the base with this LoRA" in card


def test_the_card_of_a_full_run_has_its_ranks_and_both_layouts(tmp_path: Path) -> None:
    run = published(tmp_path, "full", replicas=2)
    card = run_card(run, FACTS, files("dit.safetensors", "transformer/config.json"))
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model_relation"] == "finetune"
    assert head["tags"] == ["text-to-video", "mochi"]
    (diffusers,) = snippets(card, "python")
    ast.parse(diffusers)
    assert 'MochiTransformer3DModel.from_pretrained("transformer"' in diffusers
    assert "`ComfyUI/models/diffusion_models`" in card
    assert "RANK=0 WORLD_SIZE=2 MASTER_ADDR=HOST MASTER_PORT=29500 python -m mochi_trainer train" in card
    small = run_card(
        run_file(tmp_path, mode="full"), FACTS, files("dit.safetensors", "transformer/config.json")
    )
    (own,) = snippets(small, "python")
    ast.parse(own)
    assert (
        'transformer = MochiTransformer3DModel.from_pretrained("transformer")\npipe = MochiPipeline(' in own
    )


def test_the_card_of_nano_has_the_samples_of_its_run(tmp_path: Path) -> None:
    run = run_file(tmp_path, prompts=['a "b"', "c {d}"])
    card = run_card(run, FACTS, files("lora.safetensors", "lora-comfyui.safetensors"))
    (code,) = snippets(card, "python")
    ast.parse(code)
    for line in (
        """prompts = ['a "b"', 'c {d}']""",
        'pipe.load_lora_weights(".", weight_name="lora.safetensors")',
        "shape = vae.latent_shape(7, 32, 48)",
        '    noise = torch.randn(1, 12, *shape, generator=seeds.stream(12345, "sample", step=number))',
        "        prompt, num_frames=7, height=32, width=48, num_inference_steps=4, guidance_scale=3.0,",
    ):
        assert f"\n{line}\n" in code
    assert "prompts = ['...']" in snippets(run_card(run_file(tmp_path), FACTS, []), "python")[0]
    assert "no other tool has its decoder" in card


def test_several_ranks_are_counted_with_their_device(tmp_path: Path) -> None:
    facts = dataclasses.replace(FACTS, ranks=8)
    card = run_card(published(tmp_path, "full", replicas=8), facts, files("dit.safetensors"))
    assert "\n| device | 8 x NVIDIA H100 80GB HBM3 |\n" in card


def test_what_is_not_known_is_left_out() -> None:
    card = render(
        Card(
            title="t",
            summary="s",
            preset="nano",
            relation="merge",
            tables={"Metrics": {"loss": None, "steps": 0}, "Base": {"identity": ""}},
            reproduce=Use(tool="Made with", text="x"),
        )
    )
    assert "\n## Metrics\n\n|  |  |\n| --- | --- |\n| steps | 0 |\n" in card
    assert "## Base" not in card


def test_no_value_breaks_the_table_or_the_block_it_stands_in() -> None:
    evil = "a | b\n## c <script> `d` [e](f)"
    card = render(
        Card(
            title="t",
            summary="s",
            preset="nano",
            relation="merge",
            tables={"Base": {"source": evil}},
            reproduce=Use(tool="Made with", text="x"),
        )
    )
    assert "\n| source | a \\| b ## c &lt;script> \\`d\\` \\[e\\](f) |\n" in card
    assert fenced("echo ```", "bash") == "````bash\necho ```\n````"
