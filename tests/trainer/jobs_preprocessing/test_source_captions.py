"""What a caption's file says, and which clips count as having none; nothing is embedded that a person did not write."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_api.clips import ClipReason
from mochi_api.spec import PreprocessingSpec, S3Spec
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.jobs.caption_text import caption_text
from mochi_trainer.jobs.source_captions import (
    CAPTION_BYTES,
    captioned,
    lacks,
    read_caption,
    with_captions,
)
from mochi_trainer.jobs.source_clips import source_clips
from mochi_trainer.storage import Store, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distant_store import distant

BLANK = [
    b"",
    b" \n",
    b"\xef\xbb\xbf",
    b"\xef\xbb\xbf \r\n",
    b"\xef\xbb\xbf\xef\xbb\xbf",
    b"\xc2\xa0\xe2\x80\x8b\xe2\x80\xae",
    "\u3000\u2003\u2028".encode(),
    "\u3164\u115f\u1160\uffa0".encode(),
    "\u2800\u2800 \u034f".encode(),
    "\ufe0f\u180e\u2060\ufffe".encode(),
    "\U000e0100\U000e0041".encode(),
]
SPECS = {name: PreprocessingSpec(missing_caption=name) for name in ("Fail", "Skip", "Empty")}

WRONG = {
    "UTF-16 with a mark": ("a dog".encode("utf-16"), "UTF-16: save it as UTF-8"),
    "UTF-16 big-endian with a mark": (b"\xfe\xff\0a", "UTF-16: save it as UTF-8"),
    "UTF-32 with a mark": ("a dog".encode("utf-32"), "UTF-32: save it as UTF-8"),
    "UTF-16 without": ("a dog".encode("utf-16-le"), "not UTF-8 text (byte 1 is zero, as in UTF-16): save it as UTF-8"),
    "UTF-16 big-endian without": ("a dog".encode("utf-16-be"), "not UTF-8 text (byte 0 is zero, as in UTF-16): save it as UTF-8"),
    "UTF-16 of another script": ("日本語の犬".encode("utf-16-le"), "not UTF-8 (byte 0): save it as UTF-8"),
    "only a mark of UTF-16": (b"\xff\xfe", "UTF-16: save it as UTF-8"),
    "Latin-1": (b"caf\xe9", "not UTF-8 (byte 3) but probably Latin-1, in which it reads 'café': save it as UTF-8"),
    "zero": (b"a dog\0", "not UTF-8 text (byte 5 is zero, as in UTF-16): save it as UTF-8"),
    "escape": (b"\x1b[31ma dog", "not plain text (character 0 is the control character U+001B): save it as UTF-8"),
    "delete": (b"a\x7f", "not plain text (character 1 is the control character U+007F): save it as UTF-8"),
    "separator": (b"\x1c", "not plain text (character 0 is the control character U+001C): save it as UTF-8"),
    "C1": ("a\x9b".encode(), "not plain text (character 1 is the control character U+009B): save it as UTF-8"),
    "lost": ("a dog in S\ufffdo Paulo".encode(), "damaged (character 10 is U+FFFD, which stands for one that was lost): write it anew"),
    "RTF": (b"{\\rtf1\\ansi a dog}", "a document in RTF, not plain text: save it as plain text in UTF-8"),
    "web page": (b"\n<!DOCTYPE html><title>404</title>", "a web page, not plain text: write the caption"),
    "XML": (b"<?xml version='1.0'?><Error/>", "an XML document, not plain text: write the caption"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6\n",
        "a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
    ),
    "pointer of git-annex": (
        b"/annex/objects/SHA256E-s6--00.txt\n",
        "a pointer of git-annex, not the file itself: fetch it with git annex get",
    ),
    "pointer of Xet": (
        b"# xet version 0\nfilesize = 6\n",
        "a pointer of Xet, not the file itself: fetch it with git xet or huggingface_hub",
    ),
    "JSON": (b'{"caption": "a dog"}', "a JSON document, not plain text: write the caption"),
    "JSON behind a mark": (b'\xef\xbb\xbf\n[\n"a dog"]\n', "a JSON document, not plain text: write the caption"),
    "answer of a store": (b"<Error><Code>AccessDenied</Code>", "an XML document, not plain text: write the caption"),
    "WebVTT": (b"WEBVTT\n\n00:00.000 --> 00:01.000\nhi", "subtitles, not plain text: write the caption"),
    "SubRip": (b"1\r\n00:00:00,000 --> 00:00:01,000\r\nhi", "subtitles, not plain text: write the caption"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0", "not UTF-8 (byte 0): save it as UTF-8"),
}  # fmt: skip


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A dataset with one clip in each kind of store."""
    if request.param == "local":
        store = open_store(f"file://{tmp_path}", S3Spec())
    else:
        server: Server = request.getfixturevalue("s3_server")
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}", server.spec)
    store.write_bytes("b.mp4", b"x")
    return store


@pytest.mark.parametrize(("data", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_text_of_a_person_says_what_it_is(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"x")
    (tmp_path / "b.txt").write_bytes(data)
    store = open_store(f"file://{tmp_path}", S3Spec())
    for spec in SPECS.values():
        ((clip,), skipped) = captioned(store, source_clips(store.list()), spec)
        assert (clip.reason, clip.problem) == (ClipReason.INVALID_CAPTION, f"the caption b.txt is {words}")
        assert (clip.text, skipped, lacks(clip)) == (None, [], None)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfa dog\r\n", "a dog"),
        (b"  a\tdog\n\n on\x0c a   beach \n", "a dog on a beach"),
        ("ein Hund\u2028l\xe4uft\x85\xa0".encode(), "ein Hund läuft"),
        ("👩\u200d🚀 in space".encode(), "👩\u200d🚀 in space"),
        (b"<b>bold</b> {a|b} version 2", "<b>bold</b> {a|b} version 2"),
        (b'[trigger] a "dog", {x}', '[trigger] a "dog", {x}'),
        (b'"a dog"', '"a dog"'),
        (b"{a dog|a cat} runs", "{a dog|a cat} runs"),
        (b"7", "7"),
        (b"3 00:00 a clock", "3 00:00 a clock"),
        (b"[" * 60000, "[" * 60000),
        ("\u2764\ufe0f in \u3164\ud55c\uae00".encode(), "\u2764\ufe0f in \u3164\ud55c\uae00"),
    ],
)
def test_a_caption_is_what_it_says_on_one_line(data: bytes, text: str) -> None:
    assert caption_text(data) == text


def _read(data: bytes) -> tuple[str, str]:
    """The text of a caption, and why it has none."""
    try:
        return caption_text(data), ""
    except ValueError as error:
        return "", str(error)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_line_of_text_or_refused_in_words(data: bytes) -> None:
    text, refusal = _read(data)
    assert refusal.isprintable()
    assert not (text and refusal)
    assert text == " ".join(text.split())


@pytest.mark.parametrize("blank", BLANK)
def test_a_blank_caption_is_none(folder: Store, blank: bytes) -> None:
    folder.write_bytes("b.txt", blank)
    clips = source_clips(folder.list())
    with pytest.raises(
        MissingObjectError, match=r"^clip b\.mp4 has no caption: .*/b\.txt is empty; write one"
    ):
        captioned(folder, clips, SPECS["Fail"])
    left, skipped = captioned(folder, clips, SPECS["Skip"])
    assert (left, [(item.clip, item.reason) for item in skipped]) == ([], [("b.mp4", "EmptyCaption")])
    ((clip,), skipped) = captioned(folder, clips, SPECS["Empty"])
    assert (clip.text, skipped, lacks(clip)) == ("", [], ClipReason.EMPTY_CAPTION)
    assert read_caption(folder, clip) == ""


def test_a_caption_that_is_not_there_or_goes_while_one_looks_is_missing(folder: Store) -> None:
    folder.write_bytes("b.txt", b"a dog")
    clips = source_clips(folder.list())
    folder.delete(["b.txt"])
    for seen in (clips, source_clips(folder.list())):
        ((clip,), _) = captioned(folder, seen, SPECS["Empty"])
        assert (lacks(clip), read_caption(folder, clip)) == (ClipReason.MISSING_CAPTION, "")
        with pytest.raises(MissingObjectError, match=r"b\.txt does not exist; write one"):
            captioned(folder, seen, SPECS["Fail"])


def test_a_caption_that_is_too_large_is_not_read(folder: Store) -> None:
    folder.write_bytes("b.txt", b"x" * (CAPTION_BYTES + 1))
    ((clip,), _) = captioned(folder, source_clips(folder.list()), SPECS["Skip"])
    assert clip.reason == ClipReason.TOO_LARGE
    assert clip.problem == "the caption b.txt has 65537 bytes, at most 65536 are read"
    folder.write_bytes("b.txt", b"x" * CAPTION_BYTES)
    ((clip,), _) = captioned(folder, source_clips(folder.list()), SPECS["Skip"])
    assert len(clip.text or "") == CAPTION_BYTES


def test_what_was_read_once_is_not_read_again(folder: Store) -> None:
    folder.write_bytes("b.txt", b"a dog")
    read = with_captions(folder, source_clips(folder.list()))
    folder.delete(["b.txt"])
    assert [clip.text for clip in with_captions(folder, read)] == ["a dog"]
    assert read_caption(folder, read[0]) == "a dog"


def test_captions_of_a_distant_store_come_at_the_same_time(s3_server: Server) -> None:
    address, count, delay = f"s3://{BUCKET}/{uuid4().hex}", 60, 0.2
    near = open_store(address, s3_server.spec)
    for number in range(count):
        near.write_bytes(f"{number}.mp4", b"x")
        near.write_bytes(f"{number}.txt", b"a dog")
    clips = source_clips(near.list())
    with distant(s3_server.spec, delay) as spec:
        far = open_store(address, spec)
        started = time.monotonic()
        ((usable, _), seconds) = captioned(far, clips, SPECS["Fail"]), time.monotonic() - started
    assert [clip.text for clip in usable] == ["a dog"] * count
    assert delay < seconds < count * delay  # one after another they take longer


def test_without_time_nothing_is_known_of_a_caption_and_nothing_is_held_against_it(folder: Store) -> None:
    for number in range(60):
        folder.write_bytes(f"{number}.mp4", b"x")
        folder.write_bytes(f"{number}.txt", b"a dog")
    folder.delete(["b.mp4"])
    clips = source_clips(folder.list())
    read = with_captions(folder, clips, seconds=0)
    assert [clip.source for clip in read] == [clip.source for clip in clips]
    assert any(clip.text is None for clip in read)
    assert [clip for clip in read if clip.problem or lacks(clip)] == []
