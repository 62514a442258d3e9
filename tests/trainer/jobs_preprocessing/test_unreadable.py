"""One object of a dataset that the storage does not give out is one clip's failure, and only as long as it does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from mochi_api.clips import ClipReason
from mochi_trainer.jobs import trim, videos
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.storage import Store, open_store, read_manifest
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.storage.s3 import S3Store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, Fault, Request, fault_proxy
from tests.trainer.preprocessing_runs import run_file, write_source
from tests.trainer.video.clips import real_clip

ANSWERS = {
    "refused": Answer(status=403, code="AccessDenied", words="not you"),
    "archived": Answer(status=403, code="InvalidObjectState", words="the object is archived"),
    "gone since the listing": Answer(status=404, code="NoSuchKey", words="no such key"),
}


@pytest.fixture
def dataset(s3_server: Server, tmp_path: Path) -> str:
    """Address of the two real clips on the server."""
    write_source(tmp_path / "source")
    address = f"s3://{BUCKET}/{uuid4().hex}"
    store = open_store(address, s3_server.spec)
    for file in sorted((tmp_path / "source").iterdir()):
        store.put(file, file.name)
    return address


def _trim(root: Path, dataset: str, server: Server, uid: str, name: str, answer: Answer | None) -> Finished:
    """The stage of the run `uid`, while the object `name` is answered so."""

    def fault(request: Request) -> Fault | None:
        return answer if request.method == "GET" and request.path.endswith(f"/{name}") else None

    with fault_proxy(server.spec, fault) as proxy:
        return trim.execute(
            run_file(
                root,
                source=dataset,
                s3=proxy.spec,
                uid=uid,
                maxFailedItemsPercent=50,
                missingCaption="Empty",
            )
        )


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_clip_that_is_not_given_out_is_left_out_until_it_is(
    dataset: str, s3_server: Server, tmp_path: Path, answer: Answer
) -> None:
    first = _trim(tmp_path, dataset, s3_server, "0-1", "bunny.mp4", answer)
    assert [(item.clip, item.reason) for item in first.failures] == [("bunny.mp4", ClipReason.UNREADABLE)]
    assert first.result.items_done == 1
    again = _trim(tmp_path, dataset, s3_server, "0-1", "bunny.mp4", answer)
    assert again.result.cache_key == first.result.cache_key
    other = _trim(tmp_path, dataset, s3_server, "0-2", "bunny.mp4", None)
    assert (other.message, other.failures) == ("made 2 of 2 clips, 1 of them from the cache", [])
    assert other.result.cache_key != first.result.cache_key
    cache = open_store(f"file://{tmp_path}/cache", s3_server.spec)
    listed = read_manifest(cache, f"trim/{first.result.cache_key}").details["clips"]
    assert [clip["source"] for clip in listed] == ["carphone.MOV"], "the first run's list is as it was"


@pytest.mark.parametrize("when", ["before it is read", "while it is read"])
@pytest.mark.parametrize("place", ["s3", "folder"])
def test_a_clip_that_is_replaced_since_the_listing_is_no_unit_of_what_was_listed(
    place: str, when: str, dataset: str, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept under the old clip's ETag would be the new one's frames, for every run that has the old one again."""
    address = dataset if place == "s3" else f"file://{tmp_path}/source"
    old, new = real_clip("bigbuckbunny.mp4"), real_clip("bikes.mp4")
    kind = S3Store if place == "s3" else LocalStore
    get = kind.get

    def replaced(self: Store, key: str, to: Path) -> None:
        if self.address().rstrip("/") != address or key != "bunny.mp4":
            return get(self, key, to)
        if when == "while it is read":
            get(self, key, to)
        open_store(address, s3_server.spec).put(new, key)
        return None if when == "while it is read" else get(self, key, to)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "get", replaced)
        first = trim.execute(run_file(tmp_path, source=address, s3=s3_server.spec, maxFailedItemsPercent=50))
    assert [(item.clip, item.reason) for item in first.failures] == [("bunny.mp4", ClipReason.UNREADABLE)]
    assert "it was replaced since the folder was listed" in first.failures[0].message
    other = trim.execute(run_file(tmp_path, source=address, s3=s3_server.spec, uid="0-2"))
    assert (other.result.items_done, other.failures) == (2, [])
    assert old.stat().st_size != new.stat().st_size


@pytest.mark.parametrize("kind", ["refused", "archived"])
def test_a_caption_that_is_not_given_out_is_no_empty_one(
    dataset: str, s3_server: Server, tmp_path: Path, kind: str
) -> None:
    done = _trim(tmp_path, dataset, s3_server, "0-1", "bunny.txt", ANSWERS[kind])
    assert [(item.clip, item.reason) for item in done.failures] == [("bunny.mp4", ClipReason.UNREADABLE)]
    assert "its caption cannot be read: " in done.failures[0].message
    assert "bunny.txt" in done.failures[0].message
    other = _trim(tmp_path, dataset, s3_server, "0-2", "bunny.txt", None)
    assert (other.result.items_done, other.failures) == (2, [])


@pytest.mark.parametrize("harm", ["gone", "another"])
def test_a_clip_whose_copy_is_gone_and_whose_source_too_is_left_out_by_the_run_that_found_it_so(
    tmp_path: Path, harm: str
) -> None:
    write_source(tmp_path / "source")
    keys = {"trim": trim.execute(run_file(tmp_path)).result.cache_key}
    run = run_file(tmp_path, stage="videos", keys=keys, maxFailedItemsPercent=50)
    trimmed = read_manifest(open_store(f"file://{tmp_path}/cache", run.s3), f"trim/{keys['trim']}")
    copy, source = tmp_path / "cache" / trimmed.key("bunny.mov"), tmp_path / "source" / "bunny.mp4"
    kept = copy.read_bytes()
    copy.unlink()
    source.unlink()
    if harm == "another":
        shutil.copyfile(real_clip("bikes.mp4"), source)
    first = videos.execute(run)
    assert [(item.clip, item.reason) for item in first.failures] == [("bunny.mp4", ClipReason.UNREADABLE)]
    assert harm in first.failures[0].message
    copy.write_bytes(kept)
    other = videos.execute(run_file(tmp_path, stage="videos", keys=keys, uid="0-2"))
    assert (other.result.items_done, other.failures) == (2, [])
