"""The packaged weights of nano keep what their card promises, and the way they are made is a function of its seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from demo import clips
from demo.nano import real
from demo.nano.clips import moving_shape
from demo.nano.following import answers, seen
from demo.nano.making import main
from demo.nano.real import RealClip
from demo.nano.training import psnr
from mochi_trainer import presets, weights

LEAST_DB = 24.0
LEAST_FOLLOWED, ASKED = 8, 10


def real_clip(name: str) -> RealClip:
    found = next(clip for clip in clips.bundled() if clip.name == name)
    return RealClip(found.name, found.path, found.caption)


def test_a_real_clip_that_was_never_trained_on_is_reconstructed() -> None:
    video = real.first_frames(real_clip(clips.TUNED))
    with torch.no_grad():
        again = weights.load_decoder("nano")(weights.load_encoder("nano")(video).mean)
    assert psnr(video, again) >= LEAST_DB


def test_samples_have_the_colour_and_the_direction_of_their_caption() -> None:
    made = answers(
        weights.load_dit("nano").eval(),
        weights.load_text_encoder("nano"),
        weights.load_decoder("nano"),
        presets.preset_named("nano").latents,
        count=ASKED,
    )
    assert sum(answer.followed for answer in made) >= LEAST_FOLLOWED, [(a.caption, a.seen) for a in made]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_seen_in_a_drawn_clip_is_what_its_caption_says(seed: int) -> None:
    clip = moving_shape(torch.Generator().manual_seed(seed))
    assert f"a {seen(clip.video).colour} " in clip.caption
    assert f" moves {seen(clip.video).direction} " in clip.caption


def test_a_still_or_empty_video_has_no_direction() -> None:
    clip = moving_shape(torch.Generator().manual_seed(3)).video
    assert seen(clip[:, :1].expand_as(clip)).direction == "none"
    assert seen(torch.full_like(clip, -0.95)).direction == "none"


def test_pieces_of_real_clips_follow_their_generator_and_stay_in_range() -> None:
    videos = [real.pixels(real_clip("carphone"))]
    first, again, other = (
        real.piece(videos, torch.Generator().manual_seed(seed), frames=7, height=48, width=32)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.shape, float(first.abs().max()) <= 1) == ((3, 7, 48, 32), True)


def test_a_real_clip_gives_short_clips_and_their_mirror_images() -> None:
    short = list(real.short_clips(real_clip("carphone")))
    assert torch.equal(short[0].video.flip(-1), short[1].video)
    assert torch.equal(short[0].video[None], real.first_frames(real_clip("carphone")))
    assert {clip.caption for clip in short} == {real_clip("carphone").caption}


LITTLE = [
    *("--autoencoder-steps", "2"),
    *("--colour-steps", "2"),
    *("--text-steps", "2"),
    *("--transformer-steps", "2"),
    *("--clips", "3"),
    *("--batch", "2"),
]


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("first", "5"), ("again", "5"), ("other", "6")):
        output, card = str(tmp_path / name), str(tmp_path / f"{name}.md")
        assert main([*LITTLE, "--seed", seed, "--threads", "1", "--output", output, "--card", card]) == 0
    first, again, other = (tensors(tmp_path / name) for name in ("first", "again", "other"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (tmp_path / "first/latents.json").read_bytes() == (tmp_path / "again/latents.json").read_bytes()
    for part in ("dit", "encoder", "decoder", "model"):
        assert any(not torch.equal(first[name], other[name]) for name in first if name.startswith(part))


def test_the_transformer_alone_is_trained_beside_the_packaged_parts(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    places = ["--output", str(tmp_path / "made"), "--card", str(card)]
    assert main([*LITTLE, "--transformer-only", *places]) == 0
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["dit.safetensors"]
    assert weights.load_dit("nano", tmp_path / "made").params == weights.load_dit("nano").params
    assert "(`make nano NANO_ARGS=--transformer-only`)" in card.read_text()
    assert "2 of the transformer, of 2 clips each" in card.read_text()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors below `folder`; the order of a file's metadata is not fixed."""
    files = folder.rglob("*.safetensors")
    return {f"{path.stem} {name}": tensor for path in files for name, tensor in load_file(path).items()}
