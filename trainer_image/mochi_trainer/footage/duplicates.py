"""Clips of a dataset that show nearly the same, and which of them to keep; nothing is removed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mochi_trainer.footage.copies import copies
from mochi_trainer.footage.signatures import PICTURES, Signature, from_text

NEAR = 16
"""Bits of 63 in which the hashes of two clips may differ, mean over their pictures, to be compared further. Clips that
have nothing to do with each other differ in 31; in the tuning half of the tests copies differ in 11 at most, others in
23 at least."""

NEAREST = 8
"""Clips before it that one is compared with further, those whose hashes differ in fewest bits, of these the first: in a
dataset of one place, whose clips are all near, every pair would take hours."""

BLOCK = 512
"""Clips compared at once: 512 x 512 x 8 hashes take 17 MB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip."""

    name: str
    pixels: int
    """Width times height."""

    seconds: float
    signature: Signature


@dataclass(frozen=True, slots=True)
class Group:
    """Clips that show nearly the same."""

    kept: str
    """The largest, of these the longest, of these the first."""

    others: tuple[str, ...]
    """In the order in which they were given."""


def groups(entries: Sequence[Entry]) -> list[Group]:
    """All groups of two and more, in the order of their first clips. Copies of copies are in one group."""
    leader = list(range(len(entries)))
    for one, other in copy_pairs([entry.signature for entry in entries]):
        a, b = _root(leader, one), _root(leader, other)
        leader[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for index in range(len(entries)):
        members.setdefault(_root(leader, index), []).append(index)
    return [_group([entries[index] for index in found]) for found in members.values() if len(found) > 1]


def repeats(signatures: Sequence[Signature]) -> dict[int, list[int]]:
    """Clips that are copies of earlier ones, by their numbers, each with those in order."""
    found: dict[int, list[int]] = {}
    for one, other in copy_pairs(signatures):
        found.setdefault(other, []).append(one)
    return {other: sorted(earlier) for other, earlier in sorted(found.items())}


def repeats_of_texts(signatures: Sequence[str]) -> dict[int, list[int]]:
    """As `repeats`, of signatures as text."""
    return repeats([from_text(text) for text in signatures])


def copy_pairs(signatures: Sequence[Signature]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of which either is a copy of the other; each clip is compared with `NEAREST` before it."""
    near = list(_near_pairs(signatures))
    return [pair for pair, same in zip(near, copies(signatures, near), strict=True) if same]


def _group(entries: Sequence[Entry]) -> Group:
    kept = max(entries, key=lambda entry: (entry.pixels, entry.seconds))
    return Group(kept.name, tuple(entry.name for entry in entries if entry is not kept))


def _root(leader: list[int], index: int) -> int:
    while leader[index] != index:
        leader[index] = leader[leader[index]]
        index = leader[index]
    return index


def _near_pairs(signatures: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, whose hashes, plain or mirrored, differ in few bits: for each j those that differ in fewest."""
    if not signatures:
        return
    plain = np.stack([each.hashes for each in signatures])
    mirrored = np.stack([each.mirrored for each in signatures])
    for top in range(0, len(plain), BLOCK):
        rows = plain[top : top + BLOCK]
        near = np.concatenate(
            [
                np.minimum(
                    _differing(rows, plain[left : left + BLOCK]),
                    _differing(rows, mirrored[left : left + BLOCK]),
                )
                for left in range(0, top + BLOCK, BLOCK)
            ],
            axis=1,
        )
        for row in np.flatnonzero((near <= NEAR * PICTURES).any(1)):
            earlier = near[row, : top + row]
            candidates = np.flatnonzero(earlier <= NEAR * PICTURES)
            nearest = candidates[np.argsort(earlier[candidates], kind="stable")[:NEAREST]]
            yield from ((int(i), top + int(row)) for i in nearest)


def _differing(rows: NDArray[np.uint64], columns: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """(R, K) and (C, K) to (R, C): in how many bits all K hashes differ together."""
    total = np.zeros((len(rows), len(columns)), np.uint16)
    for picture in range(PICTURES):
        total += np.bitwise_count(rows[:, picture, None] ^ columns[None, :, picture])
    return total
