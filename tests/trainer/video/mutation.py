"""Mutated clips by a seed: cut off, bits flipped in the index and in the pictures, sizes, counts and times that lie.

By hand: `python -m tests.trainer.video.mutation --count 500 --seed 1`; `--keep FOLDER` keeps what was found bad.
"""

from __future__ import annotations

import argparse
import importlib
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mochi_trainer.errors import ClipError
from mochi_trainer.video import Cut, Limits, Readers, read_clip
from tests.trainer.video.clips import grey_levels, with_edits, write_clip
from tests.trainer.video.movies import frame_of, write_movie

CUT = Cut(frames=13, least=7, fps=30, width=64, height=48)
LIMITS = Limits(wall_seconds=60, cpu_seconds=30, memory_bytes=2 << 30)
MOST_RESIDENT = 600 << 20
"""Bytes that a worker may have had in memory; the clips are small."""

NUMBERS = (0, 1, 2, 7, 255, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000_000, 36_000_000)
TABLES = (
    b"mvhd", b"tkhd", b"mdhd", b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco", b"co64", b"elst", b"stsd", b"avc1",
    b"avcC", b"hvcC", b"hev1", b"vp09", b"vpcC", b"av1C", b"trun", b"tfhd", b"tfdt", b"pasp", b"colr", b"apcn", b"qtrle",
)  # fmt: skip


def originals(folder: Path) -> list[Path]:
    """Small clips of several codecs and layouts."""
    rng = np.random.default_rng(5)
    base = rng.integers(0, 256, (48, 64 + 20, 3), dtype=np.uint8)
    moving = [base[:, k : k + 64] for k in range(20)]
    times = [33 * k for k in range(20)]
    made = [
        write_clip(
            folder / "h264.mp4",
            np.stack(moving),
            times,
            options={"bf": "2", "preset": "veryfast", "qp": "20"},
        )
    ]
    made.append(
        with_edits(write_clip(folder / "edits.mp4", grey_levels(20), times), [(200, 100, 1.0), (400, 0, 1.0)])
    )
    made.append(write_clip(folder / "h264.mov", np.stack(moving), times, container_format="mov"))
    yuv = [
        frame_of([picture[..., 0], picture[::2, ::2, 1], picture[::2, ::2, 2]], "yuv420p")
        for picture in moving
    ]
    made.extend(
        write_movie(folder / f"{codec}.mp4", yuv, codec=codec)
        for codec in ("libx265", "libvpx-vp9", "libsvtav1", "mpeg4")
    )
    rgba = [frame_of([np.dstack([picture, picture[..., :1]])], "rgba") for picture in moving]
    made.append(write_movie(folder / "png.mov", rgba[:14], codec="png"))
    deep = [
        frame_of(
            [
                plane.astype(np.uint16) * 4
                for plane in (picture[..., 0], picture[:, ::2, 1], picture[:, ::2, 2])
            ],
            "yuv422p10le",
        )
        for picture in moving
    ]
    made.append(write_movie(folder / "prores.mov", deep, codec="prores_ks"))
    return made


def cut_off(data: bytearray, rng: random.Random) -> None:
    """Ends anywhere."""
    del data[rng.randrange(len(data)) :]


def flipped_anywhere(data: bytearray, rng: random.Random) -> None:
    """A few bits, anywhere."""
    for _ in range(rng.choice((1, 3, 30, 300))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flipped_in(kind: bytes) -> Callable[[bytearray, random.Random], None]:
    """A few bits of one box."""

    def flip(data: bytearray, rng: random.Random) -> None:
        start = data.find(kind)
        size = struct.unpack_from(">I", data, start - 4)[0] if start >= 4 else len(data)
        first = max(start, 0)
        last = min(len(data), first + max(size, 8))
        for _ in range(rng.choice((1, 2, 5, 20, 100))):
            data[rng.randrange(first, last)] ^= 1 << rng.randrange(8)

    return flip


def lying(data: bytearray, rng: random.Random) -> None:
    """A number in a table is another one: sizes, counts, times, dimensions."""
    there = [kind for kind in TABLES if data.find(kind) >= 0]
    for _ in range(rng.choice((1, 1, 2, 4)) if there else 0):
        start = data.find(rng.choice(there))
        place = start + rng.choice((-4, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 76, 80))
        if 0 <= place <= len(data) - 4:
            struct.pack_into(">I", data, place, rng.choice(NUMBERS))


def stretched(data: bytearray, rng: random.Random) -> None:
    """A piece is there twice, is missing, or is zeros."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 4, 64, 1000)))
    data[start:end] = rng.choice((bytes(data[start:end]) * 2, b"", bytes(end - start)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    cut_off,
    flipped_anywhere,
    flipped_in(b"moov"),
    flipped_in(b"mdat"),
    lying,
    lying,
    stretched,
)


def mutants(folder: Path, *, count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """(what was done, file), the same for the same seed."""
    sources = [(path, path.read_bytes()) for path in originals(folder)]
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        source, content = rng.choice(sources)
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2))):
            rng.choice(MUTATIONS)(data, rng)
            if not data:
                break
        path = folder / f"{number:05d}{source.suffix}"
        path.write_bytes(data)
        yield f"{number} of {source.name}", path


def read(path: Path) -> tuple[tuple[int, ...], int]:
    """In a worker: (shape of the frames, most bytes that it ever had in memory)."""
    try:
        frames = read_clip(path, CUT, LIMITS).frames
    finally:
        status = Path("/proc/self/status").read_text()
    assert frames.dtype == np.uint8
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return frames.shape, peak << 10


def outcome(readers: Readers, path: Path) -> str:
    """The reason or `frames`; anything else is an error of the test."""
    try:
        shape, peak = readers.run(read, path)
    except ClipError as error:
        return (
            f"{error.reason.value}{' (crash)' if 'crashed' in str(error) or 'killed' in str(error) else ''}"
        )
    assert CUT.least <= shape[0] <= CUT.frames, (path, shape)
    assert shape[1:] == (CUT.height, CUT.width, 3), (path, shape)
    assert peak < MOST_RESIDENT, (path, peak)
    return "frames"


def run(folder: Path, *, count: int, seed: int, workers: int = 2) -> Counter[str]:
    """How often each came out."""
    with Readers(workers, LIMITS) as readers, ThreadPoolExecutor(workers) as threads:
        return Counter(
            threads.map(lambda mutant: outcome(readers, mutant[1]), mutants(folder, count=count, seed=seed))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory() as name:
        found = importlib.import_module("tests.trainer.video.mutation").run(
            Path(name), count=chosen.count, seed=chosen.seed
        )  # as a module that workers can import
    sys.stdout.write(
        f"{sum(found.values())} files in {time.monotonic() - began:.0f} s: {dict(found.most_common())}\n"
    )


if __name__ == "__main__":
    main()
