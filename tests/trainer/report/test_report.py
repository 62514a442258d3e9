"""The report shows what there is, says what is absent, and is one file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mochi_api.outcomes import Item, Outcome, Reason, StageResult, TrainingResult
from mochi_api.spec import S3Spec
from mochi_trainer.report.page import policy, render
from mochi_trainer.report.publishing import refresh
from mochi_trainer.report.record import read_records, write_record
from mochi_trainer.report.rendering import asset
from mochi_trainer.storage import Store, open_store, put_bytes_entry, write_manifest
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.video import contact_sheet, encode_mp4, side_by_side, strip
from tests.trainer.preprocessing_runs import run_file
from tests.trainer.report.realistic import record
from tests.trainer.video.clips import grey_levels

EVIL = (
    "<script>alert('x')</script> \"quoted\" & <b>bold</b> {{ 7 * 191 }}{% raw %} {# gone #} --> ' onerror=x"
)


class Page(HTMLParser):
    """Checks nesting, and collects addresses, headings and alternative texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.without_alt = 0
        self.attributes: set[str] = set()
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes |= values.keys()
        self.addresses += [values[name] for name in ("src", "href", "poster") if name in values]
        self.without_alt += tag == "img" and not values.get("alt")
        if tag not in {"img", "meta", "br", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    return open_store(f"file://{tmp_path}/runs/0-1", S3Spec()), open_store(
        f"file://{tmp_path}/cache", S3Spec()
    )


def _whole_run(store: Store, cache: Store, tmp_path: Path) -> None:
    """What all stages leave behind, with hostile texts."""
    frames = grey_levels(7)
    _trimmed(store, cache, frames)
    write_record(store, record("captions", Outcome(reason="Completed"), details={"truncated": {EVIL: 300}}))
    _embedded(store, cache, frames)
    _trained(store)
    _sampled(store, frames, tmp_path / "s.mp4")


def _trimmed(store: Store, cache: Store, frames: np.ndarray) -> None:
    clip = {
        "name": "a",
        "source": EVIL,
        "frames": 7,
        "width": 48,
        "height": 32,
        "caption": EVIL,
        "enlargement": 1.5,
    }
    picture = put_bytes_entry(cache, "trim/k1", strip(frames, 3, width=100), "a.jpg")
    write_manifest(cache, "trim/k1", [picture], {"clips": [clip], "failures": [], "skipped": ["bare.mp4"]})
    failures = [Item(clip=f"broken.mp4 {EVIL}", message=f"damaged {EVIL}", reason=f"Odd{EVIL}"[:64])]
    result = StageResult(cache_key="k1", cache_hit=True, items_total=2, items_done=1, items_failed=1)
    warnings = [{"clip": "a", "warnings": {f"Odd{EVIL}": EVIL}}]
    write_record(
        store,
        record(
            "trim",
            Outcome(reason="Completed", stage_result=result),
            failures=failures,
            details={"skipped": ["bare.mp4"], "warnings": warnings},
        ),
    )


def _embedded(store: Store, cache: Store, frames: np.ndarray) -> None:
    picture = "videos/k2/reconstructions/k3/a.png"
    cache.write_bytes(picture, side_by_side(frames, frames))
    check = {"clip": "a", "source": EVIL, "psnr": 31.25, "ssim": 0.9134, "picture": picture}
    result = StageResult(cache_key="k2", items_total=1, items_done=1)
    outcome = Outcome(reason="Completed", stage_result=result)
    write_record(store, record("videos", outcome, details={"reconstructions": [check]}))


def _trained(store: Store) -> None:
    result = TrainingResult(artifactURI="s3://runs/lora.safetensors", sha256="ab" * 32, size_bytes=2_500_000)
    others = {"otherFiles": [{"uri": "s3://runs/dit-merged.safetensors", "sizeBytes": 3 << 20}]}
    write_record(store, record("train", Outcome(reason="Completed", training_result=result), details=others))
    lines = [{"step": 0, "fixedLoss": 1.5}]
    lines += [
        {"step": k, "loss": 2.0 / k, "lr": 1e-4, "gradNorm": 0.5, "stepSeconds": 0.2} for k in range(1, 20)
    ]
    lines += [{"step": 20, "loss": None, "lr": 1e-4, "gradNorm": None, "stepSeconds": 0.2, "fixedLoss": 0.75}]
    store.write_bytes("metrics.jsonl", "\n".join([*map(json.dumps, lines), '{"step": 21, "lo']).encode())


def _sampled(store: Store, frames: np.ndarray, video: Path) -> None:
    encode_mp4(frames, video, fps=30)
    store.put(video, "samples/0.mp4")
    store.write_bytes("samples/0.png", contact_sheet(frames, 4))
    sample = {
        "prompt": EVIL,
        "video": store.address("samples/0.mp4"),
        "sheet": store.address("samples/0.png"),
        "seed": 7,
    }
    outcome = Outcome(reason="Completed", message="1 video")
    write_record(store, record("sample", outcome, details={"samples": [sample]}, versions={"torch": "2.x"}))


def test_a_finished_run_shows_everything_in_one_file(stores, tmp_path: Path) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    text = render(store, run_file(tmp_path), cache)
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\(|@import|<link|<script [^>]", text)
    assert page.without_alt == 0
    assert page.tags.count("video") == 1
    assert page.tags.count("svg") == 3
    assert page.tags.count("img") == 3
    for part in (
        "Succeeded", "s3://runs/lora.safetensors", "2.384 MiB", "s3://runs/dit-merged.safetensors</code> 3 MiB", "31.2 dB · SSIM 0.913", "1.5 → 0.75 (-50.0 %)", "broken.mp4",
        "1 of 2 clips are used. 1 more without a caption were left out.", "reused", "1 min 23 s", "seed 7",
        "enlarged 1.50×", "caption of 300 tokens: what follows 256 is cut off", "schemaVersion: 1", "gradientClip: ", "Steps without a finite loss", "200 ms",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("held_out", [True, False])
def test_held_out_clips_are_explained_where_there_are_any(stores, tmp_path: Path, held_out: bool) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    line = {"step": 0, "fixedLoss": 1.5} | ({"heldOutLoss": 1.25} if held_out else {})
    store.write_bytes("metrics.jsonl", (json.dumps(line) + "\n").encode())
    assert ("Clips that are held out" in render(store, run_file(tmp_path), cache)) == held_out


def _preview(store: Store, step: int, *prompts: str) -> None:
    folder = f"samples/step-{step:06d}"
    samples = []
    for number, prompt in enumerate(prompts):
        name = f"{folder}/sample-{number:02d}"
        store.write_bytes(f"{name}.png", contact_sheet(grey_levels(7), 4))
        address = store.address(name)
        samples.append({"prompt": prompt, "video": f"{address}.mp4", "sheet": f"{address}.png", "seed": 7})
    store.write_bytes(f"{folder}/samples.json", json.dumps({"step": step, "samples": samples}).encode())


def test_samples_during_the_training_stand_under_their_prompt_by_step(stores, tmp_path: Path) -> None:
    store, cache = stores
    _preview(store, 1000, EVIL, "a bus")
    _preview(store, 200, EVIL, "a bus")
    store.write_bytes("samples/step-000300/sample-00.png", b"its description is not there yet")
    store.write_bytes("samples/step-000400/samples.json", b"[1")
    text = render(store, run_file(tmp_path), cache)
    page = Page(text)
    section = text.split("Samples during training</h2>")[1]
    assert re.findall(r"step (\d+) ·", section) == ["200", "1000"] * 2
    assert page.tags.count("video") == 0
    assert page.tags.count("img") == 4
    assert "<b>bold" not in text


def test_a_long_training_has_pictures_of_some_of_its_samples_and_the_address_of_all(
    stores, tmp_path: Path
) -> None:
    store, cache = stores
    for step in range(1, 31):
        _preview(store, 100 * step, "a bus")
    text = render(store, run_file(tmp_path), cache)
    assert Page(text).tags.count("img") == 12
    assert len(re.findall(r"step \d+ ·", text)) == 30
    for end in (100, 3000):
        assert f"after step {end} for" in text, "the first and the last are among them"


def test_a_run_without_samples_during_its_training_has_no_section_for_them(stores, tmp_path: Path) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    assert "Samples during training" not in render(store, run_file(tmp_path), cache)


class Meanwhile(LocalStore):
    """A folder in which the training leaves its record and its page while a preview's page is on its way."""

    told = False

    def write_bytes(self, key: str, data: bytes) -> None:
        if key == "report.html" and not self.told:
            self.told = True
            write_record(
                self, record("train", Outcome(reason=Reason.NON_FINITE_LOSS, message="loss was NaN"))
            )
        super().write_bytes(key, data)


def test_a_page_of_a_preview_never_hides_how_the_training_ended(stores, tmp_path: Path) -> None:
    _, cache = stores
    store = Meanwhile(tmp_path / "runs/0-1")
    refresh(store, run_file(tmp_path), cache)
    assert "Failed: NonFiniteLoss" in store.read_bytes("report.html").decode()


def test_texts_of_users_are_never_markup(stores, tmp_path: Path) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    text = render(store, run_file(tmp_path), cache)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "<b>bold" not in text
    assert "onerror" not in page.attributes
    assert "1337" not in text
    assert text.count("{{ 7 * 191 }}{% raw %} {# gone #}") >= 5
    assert text.count("&lt;script&gt;") >= 5


def test_the_browser_is_told_to_run_our_script_alone(stores, tmp_path: Path) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    text = render(store, run_file(tmp_path), cache)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == asset("tables.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy(script) in html.unescape(text)
    assert f"script-src 'sha256-{digest}'" in policy(script)
    assert not re.search(r"</script|<!--|https?://|\bfetch\b|XMLHttpRequest|innerHTML|eval", script)


def test_a_run_without_anything_says_what_is_absent(stores, tmp_path: Path) -> None:
    store, cache = stores
    text = render(store, run_file(tmp_path), cache)
    Page(text)
    for part in (
        "In progress", "No stage has finished yet", "No weights yet", "No samples", "No numbers", "No clips",
        "No clip was decoded again",
    ):  # fmt: skip
        assert part in text, part


def test_a_failed_run_says_why_and_what_to_do(stores, tmp_path: Path) -> None:
    store, cache = stores
    outcome = Outcome(reason=Reason.NON_FINITE_LOSS, message="loss was NaN", step=41)
    write_record(store, record("train", outcome))
    text = render(store, run_file(tmp_path), cache)
    assert "Failed: NonFiniteLoss" in text
    assert "In the stage train at step 41: loss was NaN" in text
    assert "lower the learning rate" in text


def test_what_is_tried_again_is_not_called_failed(stores, tmp_path: Path) -> None:
    store, cache = stores
    write_record(store, record("train", Outcome(reason=Reason.PREEMPTED, message="SIGTERM")))
    text = render(store, run_file(tmp_path), cache)
    assert "Stopped: Preempted" in text
    assert "Failed:" not in text


def test_of_a_gang_the_rank_that_failed_first_counts_and_a_later_attempt_more(stores) -> None:
    store, _ = stores
    write_record(store, record("train", Outcome(reason=Reason.COLLECTIVE_TIMEOUT, rank=0)))
    write_record(store, record("train", Outcome(reason=Reason.OUT_OF_MEMORY, rank=3)))
    assert [record.outcome.reason for record in read_records(store)] == [Reason.OUT_OF_MEMORY]
    write_record(store, record("train", Outcome(reason=Reason.COMPLETED, rank=0), attempt=2))
    assert [record.outcome.reason for record in read_records(store)] == [Reason.COMPLETED]


def test_a_damaged_record_or_picture_does_not_hide_the_rest(stores, tmp_path: Path) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    store.write_bytes("stages/captions.json", b"{")
    store.write_bytes("samples/0.png", b"not a picture")
    text = render(store, run_file(tmp_path), cache)
    assert "Succeeded" in text
    assert Page(text).tags.count("img") == 2


def test_a_record_of_another_version_is_read_as_far_as_it_is_known(stores) -> None:
    store, _ = stores
    written = record("trim", Outcome(reason="Completed", message="well"))
    raw = json.loads(written.model_dump_json(by_alias=True))
    raw |= {"mood": "good", "versions": "a list by now", "attempt": "the second"}
    raw["outcome"]["reason"] = "Tired"
    store.write_bytes("stages/trim.json", json.dumps(raw).encode())
    (found,) = [found for found in read_records(store) if found.stage == "trim"]
    assert (found.outcome.reason, found.outcome.message, found.attempt) == (Reason.UNKNOWN, "well", 1)


@pytest.mark.parametrize(
    "odd", ["text", [1, None, "x", {}], {"a": 1}, [{"psnr": "high", "uri": 3, "prompt": None}]]
)
def test_details_of_another_shape_do_not_hide_the_rest(stores, tmp_path: Path, odd) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    for stage, name in (("videos", "reconstructions"), ("train", "otherFiles"), ("sample", "samples")):
        raw = json.loads(store.read_bytes(f"stages/{stage}.json"))
        raw["details"] = {name: odd}
        store.write_bytes(f"stages/{stage}.json", json.dumps(raw).encode())
    text = render(store, run_file(tmp_path), cache)
    Page(text)
    assert "1 of 2 clips are used." in text
    assert "No clip was decoded again" in text


def test_the_least_alike_reconstruction_comes_first_and_an_old_one_has_no_ssim(
    stores, tmp_path: Path
) -> None:
    store, cache = stores
    lines = [
        {"source": "fair", "psnr": 30, "ssim": 0.9},
        {"source": "old", "psnr": 12.0, "picture": "gone.png"},
        {"source": "poor", "psnr": 31, "ssim": 0.5},
    ]
    write_record(store, record("videos", Outcome(reason="Completed"), details={"reconstructions": lines}))
    text = render(store, run_file(tmp_path), cache)
    scores = re.findall(r"<tr><td><code>(\w+)</code></td><td>([\d.]+)</td><td>([\d.]*)</td></tr>", text)
    assert scores == [("poor", "31.0", "0.500"), ("fair", "30.0", "0.900"), ("old", "12.0", "")]


def test_a_large_video_is_named_instead_of_embedded(stores, tmp_path: Path) -> None:
    store, cache = stores
    _whole_run(store, cache, tmp_path)
    store.write_bytes("samples/0.mp4", np.zeros(9 << 20, np.uint8).tobytes())
    text = render(store, run_file(tmp_path), cache)
    assert "<video" not in text
    assert store.address("samples/0.mp4") in text
    assert datetime.now(UTC).strftime("%Y-%m-%d") in text
