"""How well near-duplicates are found, and how fast: `python tests/bench/near_duplicates.py`.

Real shots in windows and drawn ones, each with six copies of known kind (tests/trainer/footage/copied.py). Pairs that are
no copies: all pairs of originals, among them the same place at other times, and clips of one ground with another thing
before it. Thresholds were chosen on the tuning half; the held-out half shares no shot and no seed with it. The last lines
are the search of the stage trim, in a worker as there: 10,000 signatures, 500 of them copies; 10,000 of one place, which
all look alike and differ in what moves; and one clip 10,000 times.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from itertools import combinations

import numpy as np

from mochi_trainer.footage.duplicates import Entry, groups, repeats_of_texts
from mochi_trainer.footage.signatures import Signature, as_text, signature
from mochi_trainer.video import Readers
from tests.trainer.footage.copied import KINDS, copied, originals, pairs, same_ground
from tests.trainer.footage.material import HELD_OUT, TUNING, Half, texture

DRAWN = 40
GROUNDS = 60
CLIPS, COPIES = 10_000, 500


def _found(one: Signature, other: Signature) -> bool:
    return bool(groups([Entry("a", 1, 1.0, one), Entry("b", 1, 1.0, other)]))


def _recall(half: Half) -> tuple[Counter[str], Counter[str]]:
    hits, tried = Counter[str](), Counter[str]()
    for kind, clip, copy in pairs(half, DRAWN):
        tried[kind] += 1
        hits[kind] += _found(signature(clip), signature(copy))
    return hits, tried


def _false(half: Half) -> tuple[int, int]:
    """Invented copies, and pairs that are none."""
    others = [signature(clip) for clip in originals(half, DRAWN).values()]
    tried = list(combinations(others, 2))
    tried += [
        (signature(a), signature(b)) for a, b in (same_ground(half.seeds[0] + k) for k in range(GROUNDS))
    ]
    return sum(_found(*pair) for pair in tried), len(tried)


def _others() -> list[Signature]:
    """Clips of which the last `COPIES` are copies of the first."""
    made, clips = [], []
    for number in range(CLIPS - COPIES):
        rng = np.random.default_rng((5, number))
        clip = texture(rng, 36, 64)[None]
        if number < COPIES:
            clip = np.concatenate([np.roll(clip, 2 * k, 2) for k in range(8)])
            clips.append(clip)
        made.append(signature(clip))
    rng = np.random.default_rng(6)
    return [*made, *(signature(copied(clip, "brighter", rng)) for clip in clips)]


def _one_place() -> list[Signature]:
    """Clips of one still ground before which a patch moves, in each another."""
    ground = texture(np.random.default_rng(7), 36, 64)
    made = []
    for number in range(CLIPS):
        rng = np.random.default_rng((8, number))
        frames, patch = np.repeat(ground[None], 8, 0), texture(rng, 10, 16)
        place, speed = rng.uniform((0, 0), (26, 48)), rng.uniform(-3, 3, 2)
        for k in range(8):
            top, left = np.clip(place + k * speed, 0, (26, 48)).astype(int)
            frames[k, top : top + 10, left : left + 16] = patch
        made.append(signature(frames))
    return made


def _speed(what: str, signatures: list[Signature]) -> str:
    texts = [as_text(each) for each in signatures]
    with Readers(1) as readers:
        readers.run(repeats_of_texts, [])  # started, with what it imports
        began = time.monotonic()
        (found, seconds, megabytes) = readers.run(_measured, texts)
        wall = time.monotonic() - began
    return (
        f"{len(texts)} clips, {what}: {len(found)} repeat an earlier one; {seconds:.1f} s of CPU, {wall:.1f} s, "
        f"{megabytes:.0f} MB in the worker\n"
    )


def _measured(texts: list[str]) -> tuple[dict[int, list[int]], float, float]:
    began = time.process_time()
    found = repeats_of_texts(texts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found, time.process_time() - began, peak


def main() -> None:
    """Print recall by kind for each half, the false ones, and the time for many."""
    sys.stdout.write(f"| half | {' | '.join(KINDS)} | recall | invented |\n|{'---|' * (len(KINDS) + 3)}\n")
    for name, half in (("tuning", TUNING), ("held out", HELD_OUT)):
        hits, tried = _recall(half)
        invented, negatives = _false(half)
        cells = " | ".join(f"{hits[kind]} of {tried[kind]}" for kind in KINDS)
        recall = hits.total() / tried.total()
        sys.stdout.write(f"| {name} | {cells} | {recall:.3f} | {invented} of {negatives} |\n")
        sys.stdout.flush()
    sys.stdout.write(_speed("500 of them copies", _others()))
    sys.stdout.write(_speed("of one place", _one_place()))
    sys.stdout.write(
        _speed("all the same", [signature(texture(np.random.default_rng(9), 36, 64)[None])] * CLIPS)
    )


if __name__ == "__main__":
    main()
