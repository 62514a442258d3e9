"""Near-duplicates: copies are found however they were made, relatives are not, and the best of a group is kept."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest

from mochi_trainer.footage.copies import copies, is_copy
from mochi_trainer.footage.duplicates import Entry, Group, groups, repeats
from mochi_trainer.footage.signatures import PICTURES, SIDE, Signature, as_text, from_text, signature
from tests.trainer.footage import literal_copies
from tests.trainer.footage.copied import KINDS, copied, originals, same_ground
from tests.trainer.footage.material import HELD_OUT, TUNING, real_shot
from tests.trainer.work import lines

CLIPS = {half: originals(half, 3) for half in (TUNING, HELD_OUT)}
HALVES = pytest.mark.parametrize("half", [TUNING, HELD_OUT], ids=["tuning", "held out"])


def entry(name: str, clip: np.ndarray, *, pixels: int = 100, seconds: float = 1.0) -> Entry:
    return Entry(name, pixels, seconds, signature(clip))


@HALVES
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_found_however_it_was_made(half, kind: str) -> None:
    rng = np.random.default_rng(9)
    for name, clip in CLIPS[half].items():
        made = [entry("original", clip), entry("copy", copied(clip, kind, rng))]
        assert groups(made) == [Group("original", ("copy",))], name


@HALVES
def test_other_clips_are_no_copies(half) -> None:
    assert groups([entry(name, clip) for name, clip in CLIPS[half].items()]) == []


def test_the_same_place_at_another_time_is_no_copy() -> None:
    frames = real_shot("carphone")
    parts = [signature(frames[start : start + 24]) for start in range(0, 96, 24)]
    assert not any(is_copy(a, b) for a, b in combinations(parts, 2))


@pytest.mark.parametrize("seed", [1, 2, 3, 1001, 1002, 1003])
def test_another_thing_before_the_same_ground_is_no_copy(seed: int) -> None:
    assert not is_copy(*map(signature, same_ground(seed)))


def test_a_still_picture_is_no_copy_of_the_clip_that_it_was_taken_from() -> None:
    frames = real_shot("bus")[:24]
    assert not is_copy(signature(frames), signature(np.repeat(frames[12:13], 24, 0)))


def test_two_copies_of_a_still_picture_are() -> None:
    still = np.repeat(real_shot("street")[:1], 24, 0)
    assert is_copy(signature(still), signature(copied(still, "encoded", np.random.default_rng(1))))


@pytest.mark.parametrize("level", [0, 255])
def test_empty_pictures_are_copies_of_nothing(level: int) -> None:
    blank = signature(np.full((24, 36, 64, 3), level, np.uint8))
    assert not is_copy(blank, blank)


def test_another_rate_is_a_copy() -> None:
    frames = real_shot("taxi")
    assert is_copy(signature(frames), signature(frames[::2]))


def test_the_largest_is_kept_then_the_longest_then_the_first() -> None:
    clip, other = real_shot("bus")[:24], real_shot("man")[:24]
    found = groups(
        [
            entry("small", clip, pixels=100, seconds=9.0),
            entry("alone", real_shot("street")[:24]),
            entry("large", clip, pixels=400, seconds=1.0),
            entry("larger by time", clip, pixels=400, seconds=2.0),
            entry("first", other),
            entry("second", other[:, :, ::-1]),
        ]
    )
    assert found == [Group("larger by time", ("small", "large")), Group("first", ("second",))]


def test_no_clips_have_no_groups() -> None:
    assert groups([]) == []


def test_a_clip_without_pictures_has_no_signature() -> None:
    with pytest.raises(ValueError, match="at least 1 picture, got 0"):
        signature(np.empty((0, 36, 64, 3), np.uint8))


def drawn_signatures(count: int) -> list[Signature]:
    """Of clips of noise of ever other structure: cheap to make, and no two alike."""
    rng = np.random.default_rng(4)
    made = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        clip = np.repeat(np.repeat(coarse, SIDE // 6, 0), SIDE // 6, 1)[None]
        made.append(signature(np.repeat(clip, PICTURES, 0)))
    return made


def test_of_thousands_every_copy_is_found_and_twice_the_clips_are_about_twice_the_work() -> None:
    signatures = drawn_signatures(3000)
    entries = [Entry(str(k), 1, 1.0, each) for k, each in enumerate(signatures)]
    entries += [Entry(f"copy of {k}", 1, 1.0, signatures[k]) for k in range(0, 3000, 30)]
    found = groups(entries)
    assert found == [Group(str(k), (f"copy of {k}",)) for k in range(0, 3000, 30)]
    half, whole = (lines(partial(groups, entries[:count])) for count in (1500, 3000))
    assert whole < 2.5 * half, (half, whole)


@HALVES
def test_many_at_once_are_judged_as_each_pair_by_the_definition(half) -> None:
    rng = np.random.default_rng(11)
    clips = list(CLIPS[half].values())[:6]
    made = [
        *clips,
        *(copied(clip, str(rng.choice(KINDS)), rng) for clip in clips),
        *same_ground(half.seeds[0]),
    ]
    made += [np.repeat(clips[0][:1], 24, 0), np.zeros((24, 36, 64, 3), np.uint8)]
    signatures = [signature(clip) for clip in made]
    pairs = list(combinations(range(len(made)), 2))
    literal = [literal_copies.is_copy(signatures[i], signatures[j]) for i, j in pairs]
    assert copies(signatures, pairs).tolist() == literal
    assert sum(literal) >= len(clips)


def test_each_clip_names_all_that_it_repeats() -> None:
    one, other, third = (real_shot(name)[:24] for name in ("bus", "man", "street"))
    signatures = [signature(clip) for clip in (one, other, one[:, :, ::-1], third, one, other)]
    assert repeats(signatures) == {2: [0], 4: [0, 2], 5: [1]}
    assert repeats([]) == {}


def test_a_dataset_of_one_place_and_one_of_one_clip_end() -> None:
    """Every clip is near every other: each is compared with few."""
    frames = real_shot("carphone")
    place = [signature(frames[start : start + 24]) for start in range(0, 96, 24)] * 100
    found = repeats(place)
    assert {index: first for index, (first, *_) in found.items()} == {
        index: index % 4 for index in range(4, 400)
    }


def test_a_signature_is_kept_as_text() -> None:
    made = signature(real_shot("bus")[:24])
    again = from_text(as_text(made))
    assert (again.pictures == made.pictures).all()
    assert (again.hashes == made.hashes).all()
    assert (again.mirrored == made.mirrored).all()
    for odd in ("", "AAAA", "é", "A" * 6144 + "?"):
        with pytest.raises(ValueError):  # noqa: PT011  # of base64 or of numpy
            from_text(odd)
