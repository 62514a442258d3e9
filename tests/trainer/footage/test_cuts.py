"""Changes of shot: found in films with known cuts, and not where the picture only moves, flashes or goes dark."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mochi_trainer.footage.cuts import STRETCH, Cut, cuts
from tests.trainer.footage.material import (
    BIKES_CUTS,
    HELD_OUT,
    SMALL,
    TUNING,
    Half,
    decoded,
    drawn_shot,
    film,
    filmed,
    real_shot,
    score_half,
    scored,
)

MOVES = ["still", "pan", "whip", "zoom", "shake"]


def found(frames: np.ndarray) -> list[tuple[int, int]]:
    return [(cut.begin, cut.end) for cut in cuts(frames)]


def seen(name: str, *, move: str = "still", seed: int = 5) -> np.ndarray:
    return filmed(real_shot(name), np.random.default_rng(seed), move)


def test_the_cuts_that_people_made_are_found() -> None:
    assert found(decoded("bikes.mp4", *SMALL)) == [(at, at) for at in BIKES_CUTS]


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_a_real_shot_has_none(name: str) -> None:
    assert found(decoded(name, *SMALL)) == []


@pytest.mark.parametrize(
    ("half", "seeds"),
    [(TUNING, [20, 21, 22, 23]), (HELD_OUT, [1020, 1021, 1022, 1023])],
    ids=["tuning", "held out"],
)
def test_most_changes_are_found_and_few_invented(half: Half, seeds: list[int]) -> None:
    score = score_half(found, half, seeds)
    assert score.hits + score.misses == 4 * 13
    assert score.f1 >= 0.95, score


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", ["street", "bunny"])
def test_what_the_camera_does_is_no_cut(name: str, move: str) -> None:
    assert found(seen(name, move=move)) == []


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_no_cut(length: int) -> None:
    frames = seen("man").astype(int)
    frames[20 : 20 + length] += 150
    assert found(np.clip(frames, 0, 255).astype(np.uint8)) == []


def test_a_lamp_that_goes_off_is_no_cut() -> None:
    frames = seen("bunny").copy()
    frames[60:] //= 2
    assert found(frames) == []


def test_a_dropped_frame_is_no_cut() -> None:
    frames = seen("street").copy()
    frames[25] = 0
    assert found(frames) == []


def test_a_hard_cut_is_found_at_its_frame() -> None:
    assert found(np.concatenate([seen("man"), seen("bicycle")])) == [(46, 46)]


def test_a_cut_out_of_a_fast_pan_is_found() -> None:
    assert found(np.concatenate([seen("street", move="whip"), seen("bunny", move="whip")])) == [(50, 50)]


def test_a_change_through_black_is_one_and_spans_it() -> None:
    black = np.zeros((12, *SMALL, 3), np.uint8)
    assert found(np.concatenate([seen("man"), black, seen("bicycle")])) == [(46, 58)]


def test_a_fade_begins_where_the_picture_starts_to_go() -> None:
    down = np.linspace(1, 0, 15)[:, None, None, None]
    first, second = seen("bicycle"), seen("street")
    frames = np.concatenate(
        [
            first[:-15],
            (first[-15:] * down).astype(np.uint8),
            (second[:15] * down[::-1]).astype(np.uint8),
            second[15:],
        ]
    )
    ((begin, end),) = found(frames)
    assert abs(begin - 40) <= 2
    assert abs(end - 70) <= 2


def test_a_dissolve_is_found_between_its_ends() -> None:
    first, second = seen("bunny")[:60], seen("man")
    share = np.linspace(0, 1, 18)[1:-1, None, None, None]
    mixed = ((1 - share) * first[-16:] + share * second[:16]).astype(np.uint8)
    ((begin, end),) = found(np.concatenate([first[:-16], mixed, second[16:]]))
    assert abs(begin - 44) <= 4
    assert abs(end - 60) <= 4


@pytest.mark.parametrize("frames", [0, 1, 2, 5])
def test_films_of_a_few_frames_have_none(frames: int) -> None:
    assert found(seen("bunny")[:frames]) == []


def test_a_long_film_is_seen_in_stretches_as_it_is_whole() -> None:
    rng = np.random.default_rng(3)
    grounds = [filmed(drawn_shot(rng, 30), rng, "still") for _ in range(4)]
    order = [grounds[k % 4] for k in range(3 * STRETCH // 30 + 7)]
    assert found(np.concatenate(order)) == [(at, at) for at in range(30, 30 * len(order), 30)]


def test_a_cut_says_which_frames_belong_to_neither_shot() -> None:
    made = film(HELD_OUT, 1001)
    assert all(isinstance(cut, Cut) and cut.begin <= cut.end for cut in cuts(made.frames))


BARS = {"letterbox": (5, 0), "pillarbox": (0, 21), "both": (5, 12)}
"""Black rows and columns on each side: 2.39:1 in 16:9, an upright film in 16:9, a small picture."""


def barred(frames: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The frames (T, 36, 64, 3) made smaller and put between black bars."""
    height, width = SMALL[0] - 2 * rows, SMALL[1] - 2 * columns
    out = np.zeros_like(frames)
    for number, picture in enumerate(frames):
        small = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        out[number, rows : rows + height, columns : columns + width] = np.asarray(small)
    return out


@pytest.mark.parametrize("bars", BARS.values(), ids=BARS)
@pytest.mark.parametrize(("half", "seed"), [(TUNING, 20), (HELD_OUT, 1020)], ids=["tuning", "held out"])
def test_changes_between_black_bars_are_found_as_without(
    half: Half, seed: int, bars: tuple[int, int]
) -> None:
    """What is black in both makes any two pictures alike."""
    made = film(half, seed)
    plain, inside = (
        scored(found(frames), made.changes) for frames in (made.frames, barred(made.frames, *bars))
    )
    assert inside.hits >= plain.hits - 1
    assert inside.false <= plain.false + 1


def test_shots_with_and_without_bars_may_follow_each_other() -> None:
    rng = np.random.default_rng(3)
    shots = [filmed(drawn_shot(rng, 40), rng, "still") for _ in range(4)]
    inside = [barred(shot, *BARS["letterbox"]) if number < 2 else shot for number, shot in enumerate(shots)]
    assert found(np.concatenate(inside)) == [(40, 40), (80, 80), (120, 120)]


def test_a_film_that_fades_to_white_between_bars_changes_once() -> None:
    rng = np.random.default_rng(4)
    first, second = (filmed(drawn_shot(rng, 40), rng, "still").astype(float) for _ in range(2))
    share = (np.arange(10)[:, None, None, None] + 1) / 10
    first[-10:] += (255 - first[-10:]) * share
    second[:10] += (255 - second[:10]) * share[::-1]
    white = np.concatenate([first, np.full((4, *SMALL, 3), 255), second]).astype(np.uint8)
    ((begin, end),) = found(barred(white, *BARS["letterbox"]))
    assert begin <= 40 < 44 <= end
