"""The dataset part: every clip once, with why it is not used or what is worth a look, whichever version wrote it."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mochi_api.clips import CLIP_TABLE, ClipReason
from mochi_api.outcomes import Item, Outcome, StageResult
from mochi_api.spec import S3Spec
from mochi_trainer.report import clips
from mochi_trainer.report.clips import CAPTION_TOKENS, ClipRow, gather_clips
from mochi_trainer.report.contents import Contents
from mochi_trainer.report.page import page, render
from mochi_trainer.report.record import read_records, write_record
from mochi_trainer.storage import Store, open_store, put_bytes_entry, write_manifest
from mochi_trainer.text import MAX_TOKENS
from mochi_trainer.video import jpeg
from tests.trainer.preprocessing_runs import run_file
from tests.trainer.report.realistic import record, write_run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    return open_store(f"file://{tmp_path}/runs/0-1", S3Spec()), open_store(
        f"file://{tmp_path}/cache", S3Spec()
    )


def _clip(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "source": f"{name}.mp4",
        "frames": 7,
        "caption": "words",
        "enlargement": 0.5,
    } | fields


def _trimmed(
    stores: tuple[Store, Store], described: list[Any], details: dict[str, Any], failures: list[Item]
) -> list[ClipRow]:
    """What the report reads of a stage trim that left this behind."""
    store, cache = stores
    picture = jpeg(np.zeros((8, 8, 3), np.uint8), width=8)
    entries = [
        put_bytes_entry(cache, "trim/k1", picture, f"{clip['name']}.jpg")
        for clip in described
        if "name" in clip
    ]
    write_manifest(cache, "trim/k1", entries, {"clips": described, "failures": [], "skipped": []})
    done = Outcome(reason="Completed", stage_result=StageResult(cache_key="k1"))
    write_record(store, record("trim", done, failures=failures, details=details))
    return gather_clips(cache, read_records(store))


def _shown(rows: list[ClipRow], tmp_path: Path) -> str:
    contents = Contents(run=run_file(tmp_path), address="a", cache="b", records=(), clips=rows)
    return page(contents, now=datetime(2026, 1, 1, tzinfo=UTC))


def test_every_clip_is_there_once_with_its_reason_or_its_warnings(stores) -> None:
    said = [{"clip": "b.mp4", "warnings": {"HdrConverted": "PQ"}}, {"clip": "c", "warnings": {"Dark": "9"}}]
    rows = _trimmed(
        stores,
        [_clip("a"), _clip("b", enlargement=1.5), _clip("c"), _clip("d", caption="")],
        {"skipped": [{"clip": "bare.mp4", "message": "EmptyCaption: no words"}], "warnings": said},
        [Item.of("z.mp4", "cut off", ClipReason.CORRUPT), Item.of("a.mp4", "not finite", ClipReason.CORRUPT)],
    )
    assert [(row.source, row.used, row.reason, sorted(row.warnings)) for row in rows] == [
        ("a.mp4", False, "Corrupt", []),
        ("b.mp4", True, "", ["HdrConverted", "Upscaled"]),
        ("c.mp4", True, "", ["Dark"]),
        ("d.mp4", True, "", ["NoCaption"]),
        ("z.mp4", False, "Corrupt", []),
        ("bare.mp4", False, "EmptyCaption", []),
    ]
    assert rows[0].message == "not finite"
    assert [row.skipped for row in rows] == [False] * 5 + [True]


def test_segments_are_rows_of_their_own_and_counted_by_their_sources(stores, tmp_path) -> None:
    rows = _trimmed(
        stores,
        [
            _clip("a__00", source="a.mp4", segment=0, start=1.5),
            _clip("a__01", source="a.mp4", segment=1, start=4.25, warnings={"NearDuplicate": "as a.mp4#00"}),
            _clip("b__00", source="b.mp4", segment=0, start=0.0),
        ],
        {},
        [Item.of("b.mp4#00", "not finite", ClipReason.CORRUPT), Item.of("c.mp4", "no", ClipReason.TOO_SHORT)],
    )
    assert [(row.label, row.start, row.used, sorted(row.warnings)) for row in rows] == [
        ("a.mp4#00", 1.5, True, []),
        ("a.mp4#01", 4.25, True, ["NearDuplicate"]),
        ("b.mp4#00", 0.0, False, []),
        ("c.mp4", None, False, []),
    ]
    assert [row.picture is not None for row in rows] == [True, True, True, False]
    text = _shown(rows, tmp_path)
    assert "1 of 3 clips are used, as 2 segments." in text
    assert '<code>a.mp4#01</code> <span class="note">from 4.25 s</span>' in text


def test_what_an_earlier_version_left_behind_is_shown_without_what_it_did_not_write(stores, tmp_path) -> None:
    rows = _trimmed(
        stores,
        [{"name": "a", "source": "a.mp4", "caption": "words", "frames": 7}],
        {},
        [Item(clip="z.mp4", message="damaged")],
    )
    assert rows[0] == ClipRow(source="a.mp4", caption="words", frames=7, picture=rows[0].picture)
    text = _shown(rows, tmp_path)
    assert '<b class="bad">Other</b> damaged' in text
    assert "as the message of each clip says" in text


def test_what_does_not_count_and_what_cannot_be_read_is_told(stores, tmp_path: Path) -> None:
    details = {
        "leftOut": {"hidden": 2},
        "unlisted": {"linked to nothing": 3, "without permission to be read": 1},
    }
    rows = _trimmed(stores, [_clip("a")], details, [])
    contents = Contents(
        run=run_file(tmp_path), address="a", cache="b", records=read_records(stores[0]), clips=rows
    )
    text = page(contents, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert "Files in the folder that do not count: 2 hidden." in text
    assert "cannot be read: 3 linked to nothing, 1 without permission to be read." in text


@pytest.mark.parametrize(
    "odd",
    [
        {"warnings": "many"},
        {"warnings": ["x", {"clip": 3}, {"warnings": {"A": "b"}}, {"clip": "a", "warnings": ["Dark"]}]},
        {"skipped": 4, "truncated": ["a.mp4"], "leftOut": [1]},
        {"skipped": [["a"], {"message": "no clip"}], "leftOut": {"hidden": "two"}},
        {"truncated": {"a.mp4": "three", "b": None}},
    ],
)
def test_details_of_another_shape_hide_nothing_else(stores, odd: dict[str, Any], tmp_path: Path) -> None:
    described = [_clip("a", warnings=7, frames="seven", enlargement=float("inf")), {"name": "no source"}]
    rows = _trimmed(stores, described, odd, [])
    assert [(row.source, row.frames, row.enlargement, row.warnings) for row in rows] == [
        ("a.mp4", None, None, {})
    ]
    assert "1 of 1 clips are used." in _shown(rows, tmp_path)


def test_a_clip_that_two_stages_refuse_is_counted_once(stores) -> None:
    store, _ = stores
    again = [Item.of("z.mp4", "again", ClipReason.TOO_SHORT)]
    write_record(store, record("videos", Outcome(reason="Completed"), failures=again))
    rows = _trimmed(stores, [_clip("a")], {}, [Item.of("z.mp4", "cut off", ClipReason.CORRUPT)])
    assert [row.source for row in rows] == ["a.mp4", "z.mp4"]


def test_pictures_are_bounded_in_number_and_bytes_and_go_to_warned_clips_first(stores, monkeypatch) -> None:
    described = [_clip(f"c{n}", enlargement=2.0 if n >= 4 else 0.5) for n in range(6)]
    monkeypatch.setattr(clips, "STRIPS", 3)
    rows = _trimmed(stores, described, {}, [])
    assert [row.source for row in rows if row.picture] == ["c0.mp4", "c4.mp4", "c5.mp4"]
    monkeypatch.setattr(clips, "STRIPS_BYTES", len(rows[4].picture or b"") * 2)
    rows = gather_clips(stores[1], read_records(stores[0]))
    assert [row.source for row in rows if row.picture] == ["c4.mp4", "c5.mp4"]


def test_tokens_are_those_of_the_whole_caption_also_where_it_is_cut(stores) -> None:
    store, cache = stores
    write_manifest(cache, "captions/k2", [], {"tokens": {"a": 12, "b": CAPTION_TOKENS}})
    done = Outcome(reason="Completed", stage_result=StageResult(cache_key="k2"))
    write_record(store, record("captions", done, details={"truncated": {"b.mp4": 300}}))
    rows = _trimmed(stores, [_clip("a"), _clip("b"), _clip("c")], {}, [])
    assert [row.tokens for row in rows] == [12, 300, None]
    assert [list(row.warnings) for row in rows] == [[], ["CaptionTruncated"], []]
    assert CAPTION_TOKENS == MAX_TOKENS


@pytest.mark.parametrize("row", CLIP_TABLE, ids=lambda row: row.reason)
def test_each_reason_is_explained_once_and_counted(row, tmp_path: Path) -> None:
    rows = [ClipRow(source=f"{n}.mp4", used=False, reason=row.reason, message="so") for n in range(3)]
    text = html.unescape(_shown(rows, tmp_path))
    assert text.count(row.meaning) == text.count(row.cure) == 1
    assert f'class="bad">{row.reason}</a></td><td>3</td>' in text
    assert f'<option value="{row.reason}">{row.reason} (3)</option>' in text
    assert text.count(f'data-tags="unused {row.reason}"') == 3


def test_numbers_that_are_all_the_same_are_a_sentence_and_others_a_histogram(tmp_path: Path) -> None:
    rows = [ClipRow(source=f"{n}", caption="c", frames=60, tokens=n) for n in range(1, 9)]
    text = _shown(rows, tmp_path)
    assert "All clips: 2 seconds." in text
    assert "From 1 to 8 tokens, half of the clips up to 4.5." in text
    assert text.count("<rect") == 8
    assert "Enlargement of the source" not in text


@pytest.mark.parametrize("caption", ["".join(f"word{n} " for n in range(300)), "語" * 700, "<&>" * 200])
def test_a_long_caption_unfolds_between_words_and_loses_nothing(caption: str, tmp_path: Path) -> None:
    text = _shown([ClipRow(source="a", caption=caption)], tmp_path)
    (cell,) = re.findall(r"<details><summary>(.*?)</details>", text)
    seen, rest = map(html.unescape, cell.split("</summary>"))
    assert seen + rest == caption
    assert 100 <= len(seen) <= 220
    assert " " not in caption or seen.endswith(" ")


def test_a_name_that_is_no_utf_8_is_shown_and_does_not_stop_the_page(tmp_path: Path) -> None:
    text = _shown([ClipRow(source="caf\udce9.mp4", caption="zero \0 byte")], tmp_path)
    assert r"<code>caf\udce9.mp4</code>" in text
    assert text.encode()


def test_a_run_as_people_have_it_is_a_page_of_a_few_mebibytes(stores, tmp_path: Path) -> None:
    store, cache = stores
    write_run(store, cache, tmp_path, clips=200, failed=12, width=128)
    text = render(store, run_file(tmp_path, frames=37), cache)
    assert "200 of 212 clips are used." in text
    assert text.count("<tr data-tags=") == 212
    assert len(re.findall(r"Pictures of the 8 clips that are least like their originals, of 12", text)) == 1
    scores = [float(score) for score in re.findall(r"SSIM ([\d.]+)</figcaption>", text)]
    assert (len(scores), scores) == (8, sorted(scores))
    assert len(text) < 8 << 20


def test_of_ten_thousand_clips_all_are_listed_within_the_bound(tmp_path: Path) -> None:
    picture = bytes(clips.STRIPS_BYTES // clips.STRIPS)
    rows = [
        ClipRow(source=f"clips/{n:05d}.mov", caption="word " * 30, frames=37 + n % 9, enlargement=0.5, tokens=n % 99, picture=picture if n < clips.STRIPS else None)
        for n in range(10_000)
    ]  # fmt: skip
    text = _shown(rows, tmp_path)
    assert text.count("<tr data-tags=") == 10_000
    assert f"Pictures of {clips.STRIPS} clips are in this page" in text
    assert len(text) < clips.STRIPS_BYTES * 4 // 3 + 10_000 * 500


def test_an_installed_wheel_has_the_templates(tmp_path: Path) -> None:
    """Built as the Dockerfile builds it, and used without the source tree."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "from mochi_trainer.report.rendering import asset, rendered\n"
        "import mochi_trainer; print(mochi_trainer.__file__)\n"
        "print(rendered('versions.html', versions={'a': '<'}), len(asset('tables.js')), len(asset('style.css')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert str(tmp_path / "site") in done.stdout
    assert "<code>&lt;</code>" in done.stdout
