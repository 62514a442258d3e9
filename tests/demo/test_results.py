"""Results on this machine: what is removed, what is drawn, how the loss is read."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from demo import clips, results
from demo.bucket import Bucket
from demo.kubectl import Kubectl
from demo.results import Result
from demo.run import failure, next_commands, size_words, summary
from demo.sites import Site
from demo.watch import End
from mochi_api.status import FineTuneStatus, StageStatus


def test_clearing_touches_only_what_the_demo_makes(tmp_path: Path) -> None:
    for name in (
        "lora.safetensors",
        "lora-comfyui.safetensors",
        "dit.safetensors",
        "dit-merged.safetensors",
        "transformer/config.json",
        "report.html",
        "mine.txt",
        "samples/a.mp4",
        "photos/b.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    results.clear(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b.png", "mine.txt"]


def test_every_artifact_has_a_name_for_people() -> None:
    names = ("dit-merged.safetensors", "transformer/diffusion_pytorch_model.safetensors", "README.md")
    assert [results._kind(f"artifacts/{name}") for name in names] == [
        "base with the LoRA in its weights",
        "tuned weights for Diffusers",
        "model card",
    ]


def test_a_contact_sheet_shows_first_and_last_frame(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(13):
            grey = np.full((32, 32, 3), index * 20, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    sheet = tmp_path / "clip.png"
    results.contact_sheet(video, sheet)
    with Image.open(sheet).convert("L") as image:
        assert image.size == (4 * 32, 3 * 32)
        assert image.getpixel((16, 16)) < 20
        assert image.getpixel((3 * 32 + 16, 2 * 32 + 16)) > 220


def test_the_loss_of_the_fixed_batch_is_read_where_it_was_taken(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        '{"step": 0, "fixedLoss": 2.0}\n{"step": 1, "loss": 9}\n{"step": 2, "fixedLoss": null}\n'
        '{"step": 3, "loss": 1, "fixedLoss": 1}\n'
    )
    assert results.fixed_losses(metrics) == [2.0, 1.0]


def test_the_summary_tells_the_course_of_the_loss_and_what_was_reused(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(f'{{"step": {step}, "fixedLoss": {20 - step}}}\n' for step in range(20)))
    status = FineTuneStatus(
        stages=[
            StageStatus(name="trim", state="Succeeded"),
            StageStatus(name="videos", state="Succeeded", cache_hit=True),
        ]
    )
    assert summary(status, [Result(what="metrics", path=metrics, uri="")]) == [
        "loss of the same fixed batch before and after training: 20.0000 and 1.0000",
        "reused from an earlier run, not computed again: videos",
    ]
    assert summary(FineTuneStatus(), []) == []


def test_sizes_are_words() -> None:
    assert [size_words(size) for size in (12, 12_345, 12_345_678)] == ["12 B", "12 kB", "12.3 MB"]


def test_every_bundled_clip_is_a_video_with_a_caption() -> None:
    found = clips.bundled()
    assert [clip.name for clip in found] == ["bigbuckbunny", "bikes", "carphone"]
    for clip in found:
        assert len(clip.caption.split()) > 10
        with av.open(str(clip.path)) as container:
            assert container.streams.video[0].width >= 176


def test_the_last_lines_say_how_to_look_around_and_how_to_stop_only_while_there_is_something_to_stop() -> (
    None
):
    site = Site(
        kubectl=Kubectl(binary="kubectl", kubeconfig=None, namespace="x"),
        bucket=Bucket(name="demo", endpoint="", access_key="a", secret_key="b"),
        endpoint="",
        look_around=("kubectl get mft",),
        stop="stop it so",
    )
    kept = next_commands(site, [], mode="lora", kept=True)
    assert "  kubectl get mft" in kept
    assert kept[-1].endswith("stop it so")
    ended = next_commands(site, [], mode="full", kept=False)
    assert [line.split(":")[0] for line in ended] == ["look around", "a LoRA"]


def test_a_failure_says_why_and_what_to_do() -> None:
    assert failure("bunny", End(False, "AccessDenied", "no access to s3://demo/")) == (
        "MochiFineTune bunny failed: AccessDenied\n"
        "  what:       no access to s3://demo/\n"
        "  what to do: correct the S3 credentials or the permissions of the bucket"
    )
