"""The cache by hand: what runs use stays, what none uses goes, what is young is left alone."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from mochi_api import layout
from mochi_api.outcomes import Outcome, Reason, StageResult
from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.graph import Claims
from mochi_trainer.graph.keeping import usage
from mochi_trainer.jobs import cache, trim
from mochi_trainer.report.record import StageRecord, write_record
from mochi_trainer.storage import ObjectInfo, open_store
from tests.trainer.preprocessing_runs import run_file, write_source

LATER = 8 * cache.DAY


def later() -> float:
    return time.time() + LATER


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two runs with one clip in common."""
    write_source(tmp_path / "source")
    trimmed(tmp_path, "first")
    (tmp_path / "source" / "bunny.mp4").unlink()
    (tmp_path / "source" / "bunny.txt").unlink()
    trimmed(tmp_path, "second")
    return tmp_path


def trimmed(root: Path, uid: str) -> None:
    run = run_file(root, uid=uid)
    result = trim.execute(run).result
    outcome = Outcome(reason=Reason.COMPLETED, stage_result=result)
    record = StageRecord(stage="trim", outcome=outcome, started="2026-11-25T00:00:00+00:00", seconds=1)
    write_record(open_store(run.locations.run, S3Spec()), record)


def look(root: Path, **request: object) -> str:
    return cache.look(cache.Request(address=f"file://{root}", **request), S3Spec(), now=later)  # type: ignore[arg-type]


def clips(root: Path) -> int:
    return len(list((root / "cache").rglob("*.mov")))


def test_what_runs_use_is_not_removed(root: Path) -> None:
    table = look(root)
    assert "2 runs are kept" in table
    assert "nothing older than 7 days is unused" in table
    assert "removed 0 objects" in look(root, remove=True)
    assert clips(root) == 2


def test_what_only_a_deleted_run_used_goes_and_what_others_share_stays(root: Path) -> None:
    shutil.rmtree(root / "runs" / "first")
    assert "4 objects older than 7 days are used by no run" in look(root)
    assert clips(root) == 2, "looking removes nothing"
    look(root, remove=True)
    assert clips(root) == 1
    assert trim.execute(run_file(root, uid="third")).result.cache_hit, "what the second run uses is whole"


def test_what_is_young_is_left_alone_because_a_run_may_be_about_to_list_it(root: Path) -> None:
    shutil.rmtree(root / "runs" / "first")
    look(root, remove=True, young_days=9)
    assert clips(root) == 2


def test_nothing_is_removed_while_a_stage_is_at_work(root: Path) -> None:
    """It may have found what is old and unused by now, and name it only at its end."""
    shutil.rmtree(root / "runs" / "first")
    claims = Claims(
        open_store(f"file://{root}/cache", S3Spec()), layout.claims("", "videos", "f" * 32), "somebody"
    )
    request = cache.Request(address=f"file://{root}", young_days=0, remove=True)
    with (
        claims.alive(),
        pytest.raises(InvalidInputError, match=r"a stage is at work .*somebody.json was written 0 s ago"),
    ):
        cache.look(request, S3Spec())
    assert clips(root) == 2
    assert "removed 4 objects" in cache.look(request, S3Spec())


def test_the_pulse_of_one_that_died_is_no_hindrance(root: Path) -> None:
    shutil.rmtree(root / "runs" / "first")
    pulse = root / "cache" / layout.claims("", "videos", "f" * 32) / "pulse" / "somebody.json"
    pulse.parent.mkdir(parents=True)
    pulse.write_text("{}")
    look(root, remove=True)
    assert clips(root) == 1
    assert not pulse.exists()


def test_nothing_is_removed_where_no_run_is_found(root: Path) -> None:
    shutil.rmtree(root / "runs")
    assert "0 runs are kept" in look(root)
    with pytest.raises(
        InvalidInputError, match="name every outputURI whose runs share this cache with --runs"
    ):
        look(root, remove=True)
    assert clips(root) == 2


def test_runs_elsewhere_count_when_they_are_named(root: Path) -> None:
    (root / "runs").rename(root / "elsewhere")
    (root / "other").mkdir()
    (root / "elsewhere").rename(root / "other" / "runs")
    assert "removed 0 objects" in look(root, runs=[f"file://{root}/other"], remove=True)


def test_what_is_not_the_caches_own_is_never_touched(root: Path) -> None:
    shutil.rmtree(root / "runs" / "first")
    for name in ("trim/notes.txt", "videos/mine/clip.mp4", "other/file", "trim/units/readme"):
        path = root / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    look(root, remove=True)
    assert all(
        (root / "cache" / name).exists()
        for name in ("trim/notes.txt", "videos/mine/clip.mp4", "other/file", "trim/units/readme")
    )


@pytest.mark.parametrize(
    ("key", "content", "why"),
    [
        ("stages/trim.json", b"{", "its record of trim cannot be read"),
        ("stages/trim.json", b'{"stage": "trim"}', "its record of trim cannot be read"),
        ("stages/videos-rank-1.json", b"", "its record of videos cannot be read"),
        ("attempts/a000001.json", b"{}", "it has trained and has no record of captions"),
        ("checkpoints/step-000100/manifest.json", b"{}", "it has trained and has no record of captions"),
    ],
)
def test_nothing_is_removed_while_a_run_does_not_say_what_it_uses(
    key: str, content: bytes, why: str, root: Path
) -> None:
    """Its training may read what would go."""
    path = root / "runs" / "first" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert f"{root}/runs/first ({why})" in look(root)
    with pytest.raises(InvalidInputError, match="not every run says what it uses") as caught:
        look(root, remove=True)
    assert "delete the folders of these runs" in (caught.value.action or "")
    assert clips(root) == 2


def test_a_run_that_has_trained_and_says_what_it_used_is_no_hindrance(root: Path) -> None:
    for stage in ("captions", "videos"):
        outcome = Outcome(reason=Reason.COMPLETED, stage_result=StageResult(cache_key="0" * 32))
        record = StageRecord(stage=stage, outcome=outcome, started="2026-11-25T00:00:00+00:00", seconds=1)
        write_record(open_store(f"file://{root}/runs/first", S3Spec()), record)
    (root / "runs" / "first" / "attempts").mkdir()
    (root / "runs" / "first" / "attempts" / "a000001.json").write_text("{}")
    assert "removed 0 objects" in look(root, remove=True)


@pytest.mark.parametrize("days", [-1.0, float("nan"), float("inf")])
def test_an_age_that_is_none_is_refused(days: float, root: Path) -> None:
    shutil.rmtree(root / "runs" / "first")
    with pytest.raises(InvalidInputError, match="--young-days must be a number of at least 0"):
        look(root, remove=True, young_days=days)
    assert clips(root) == 2


def test_what_has_no_date_counts_as_young(root: Path) -> None:
    objects = [ObjectInfo(f"trim/{'0' * 32}/manifest.json", 1, "1", 0.0)]
    (found, *_) = usage(objects, {}, (), young_after=later())
    assert not found.unused


def test_a_folder_is_an_address(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for address in (".", str(root), f"{root}/"):
        request = cache.Request(address=address, runs=[address], remove=True)
        assert "2 runs are kept" in cache.look(request, S3Spec(), now=later)


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("below", ["cache", "nothing"])
def test_an_address_of_nothing_is_told_so(below: str, remove: bool, root: Path) -> None:
    request = cache.Request(address=f"file://{root}/{below}", remove=remove)
    with pytest.raises(MissingObjectError, match="there is neither a cache nor a run at") as caught:
        cache.look(request, S3Spec(), now=later)
    assert "what lies above cache/ and runs/" in (caught.value.action or "")
