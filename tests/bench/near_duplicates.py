"""How well near-duplicates are found, and how fast: `python tests/bench/near_duplicates.py`.

Real shots in windows and drawn ones, each with six copies of known kind (tests/trainer/footage/copied.py). Pairs that are
no copies: all pairs of originals, among them the same place at other times, and clips of one ground with another thing
before it. Thresholds were chosen on the tuning half; the held-out half shares no shot and no seed with it. The last line
is 10,000 signatures, 500 of them copies.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from itertools import combinations

import numpy as np

from mochi_trainer.footage.duplicates import Entry, groups
from mochi_trainer.footage.signatures import Signature, signature
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


def _speed() -> str:
    made, clips = [], []
    for number in range(CLIPS - COPIES):
        rng = np.random.default_rng((5, number))
        clips.append(
            np.stack([np.roll(texture(rng, 36, 64), 2 * k, 1) for k in range(8)])
            if number < COPIES
            else texture(rng, 36, 64)[None]
        )
        made.append(signature(clips.pop() if number >= COPIES else clips[number]))
    rng = np.random.default_rng(6)
    copies = [signature(copied(clip, "brighter", rng)) for clip in clips]
    entries = [Entry(str(k), 1, 1.0, each) for k, each in enumerate([*made, *copies])]
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = groups(entries)
    seconds, after = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    right = sum(group.others == (str(int(group.kept) + CLIPS - COPIES),) for group in found)
    return (
        f"{CLIPS} clips: {right} of {COPIES} copies in a group with their originals alone, {len(found) - right} other "
        f"groups, {seconds:.1f} s of CPU, {(after - before) / 1024:.0f} MB more memory\n"
    )


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
    sys.stdout.write(_speed())


if __name__ == "__main__":
    main()
