"""A clip that is held out is not trained on under another name either: real clips, encoded again, through all stages."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.data import split
from mochi_trainer.jobs import captions, train, trim, videos
from mochi_trainer.video import Cut, encode_mp4, read_clip
from tests.trainer.distributed import free_port
from tests.trainer.preprocessing_runs import run_file
from tests.trainer.video.clips import real_clip

ORIGINALS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
TRAINING = {"steps": 1, "warmupSteps": 0, "globalBatchSize": 1, "validation": {"clips": 1}}


def write_source(folder: Path) -> None:
    """clip-0 to clip-2, and as clip-3 to clip-5 the same, smaller and encoded once more; clip-6 stands alone."""
    folder.mkdir()
    for number, name in enumerate(ORIGINALS):
        shutil.copyfile(real_clip(name), folder / f"clip-{number}.mp4")
        frames = read_clip(real_clip(name), Cut(frames=30, least=30, fps=30, width=160, height=96)).frames
        encode_mp4(frames, folder / f"clip-{number + 3}.mp4", fps=30)
    grey = torch.linspace(0, 255, 160).repeat(30, 96, 1)[..., None].expand(-1, -1, -1, 3)
    encode_mp4(grey.byte().numpy(), folder / "clip-6.mp4", fps=30)
    for clip in list(folder.glob("*.mp4")):
        clip.with_suffix(".txt").write_text(f"caption of {clip.stem}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    root = tmp_path_factory.mktemp("repeats")
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    write_source(root / "source")
    keys: dict[str, str] = {}
    for stage, module in (("trim", trim), ("captions", captions), ("videos", videos)):
        done = module.execute(run_file(root, stage=stage, keys=keys))
        keys[stage] = done.result.cache_key  # type: ignore[union-attr]
    found = run_file(root, stage="train", keys=keys)
    return _asking(found, "one", 1)


def _asking(run: RunFile, name: str, clips: int) -> RunFile:
    wire = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    wire["training"] |= TRAINING | {"validation": {"clips": clips}}
    wire["locations"]["run"] = wire["locations"]["cache"].replace("/cache", f"/runs/{name}")
    return RunFile.model_validate(wire)


def test_a_clip_that_stands_alone_is_held_out_first(run: RunFile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train.execute(run)
    assert "6 clips are trained on; held out: clip-6" in caplog.text
    assert "neither trained on" not in caplog.text


@pytest.mark.parametrize("earlier", [False, True], ids=["this version", "a list of an earlier version"])
def test_a_clip_goes_with_what_shows_the_same(
    run: RunFile, caplog: pytest.LogCaptureFixture, earlier: bool
) -> None:
    if earlier:
        manifest = _list(run)
        document = json.loads(manifest.read_text())
        for clip in document["details"]["clips"]:
            del clip["repeats"]
        manifest.write_text(json.dumps(document))
    caplog.set_level("INFO")
    train.execute(_asking(run, f"two-{earlier}", 2))
    assert "4 clips are trained on; held out: clip-0, clip-6" in caplog.text
    assert "since they show what a held out clip shows: clip-3" in caplog.text


def test_what_was_chosen_stays_when_the_list_is_gone(run: RunFile, caplog: pytest.LogCaptureFixture) -> None:
    train.execute(_asking(run, "chosen", 2))
    list_ = _list(run)
    list_.rename(list_.with_suffix(".away"))
    caplog.clear()
    caplog.set_level("INFO")
    try:
        train.execute(_longer(_asking(run, "chosen", 2)))
    finally:
        list_.with_suffix(".away").rename(list_)
    assert "4 clips are trained on; held out: clip-0, clip-6" in caplog.text
    assert "may be held out" not in caplog.text


def test_another_number_is_chosen_anew(run: RunFile, caplog: pytest.LogCaptureFixture) -> None:
    train.execute(_asking(run, "number", 2))
    caplog.clear()
    caplog.set_level("INFO")
    train.execute(_longer(_asking(run, "number", 1)))
    assert "6 clips are trained on; held out: clip-6" in caplog.text


def test_a_run_of_an_earlier_version_goes_on_with_its_own(
    run: RunFile, caplog: pytest.LogCaptureFixture
) -> None:
    """It took no heed of what shows the same."""
    train.execute(_asking(run, "old", 2))
    folder = Path(_asking(run, "old", 2).locations.run.removeprefix("file://"))
    (folder / layout.HELD_OUT).unlink()
    caplog.clear()
    caplog.set_level("INFO")
    train.execute(_longer(_asking(run, "old", 2)))
    clips = [f"clip-{number}" for number in range(7)]
    theirs = ", ".join(clips[index] for index in split(clips, 2).held_out)
    assert f"5 clips are trained on; held out: {theirs}" in caplog.text
    assert "neither trained on" not in caplog.text


def test_a_choice_that_is_damaged_is_made_again(run: RunFile, caplog: pytest.LogCaptureFixture) -> None:
    train.execute(_asking(run, "damaged", 2))
    folder = Path(_asking(run, "damaged", 2).locations.run.removeprefix("file://"))
    before = (folder / layout.HELD_OUT).read_bytes()
    (folder / layout.HELD_OUT).write_bytes(before[:20])
    caplog.clear()
    train.execute(_longer(_asking(run, "damaged", 2)))
    assert (folder / layout.HELD_OUT).read_bytes() == before
    assert "is damaged and chosen anew" in caplog.text


def test_without_the_list_a_warning_says_what_it_costs(
    run: RunFile, caplog: pytest.LogCaptureFixture
) -> None:
    _list(run).unlink()
    train.execute(_asking(run, "unlisted", 2))
    assert "a clip may be held out that shows nearly the same as one that is trained on: " in caplog.text
    assert "trim" in caplog.text


def _longer(run: RunFile) -> RunFile:
    wire = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    wire["training"]["steps"] = 2
    return RunFile.model_validate(wire)


def _list(run: RunFile) -> Path:
    root = Path(run.locations.cache.removeprefix("file://"))
    return root / "trim" / run.keys.trim / "manifest.json"
