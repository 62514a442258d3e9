"""Looking for the changes of shot in a film of an hour: processor time as a ratio to plain decoding, and memory.

    python -m tests.bench.long_film [MINUTES] [still]

The film is 320x180, H.264, 25 frames a second, with a hard cut every four seconds, and pans in between (the dearest kind to
look at: each frame may be a change) unless `still`: the packets of 20 s, encoded once, come
again and again with new times. Each number is that of a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mochi_trainer.footage.passes import changes_of_shot, parts_of_film
from mochi_trainer.video import Limits
from mochi_trainer.video.presentation import shown_frames

FPS, WIDTH, HEIGHT = 25, 320, 180
SHOT, SHOTS = 4, 5
"""Seconds of a shot, and how many different ones there are."""


def _shots(pan: int) -> list[np.ndarray]:
    """(T, H, W, 3): a picture of its own for each shot, that pans by so many pixels a frame."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(SHOTS):
        coarse = rng.integers(0, 256, (12, 40, 3), dtype=np.uint8)
        wide = np.kron(coarse, np.ones((15, 15, 1), np.uint8))
        frames += [wide[:, pan * shift : pan * shift + WIDTH] for shift in range(SHOT * FPS)]
    return frames


def long_film(path: Path, seconds: int, *, pan: int = 1) -> Path:
    """Write a film of so many seconds, in whole rounds of all shots; a round costs its bytes, not its encoding."""
    frames, per_round = _shots(pan), SHOT * SHOTS * FPS
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, FPS)
        stream.options = {"crf": "32", "preset": "veryfast", "x264-params": f"keyint={SHOT * FPS}:open-gop=0"}
        packets = []
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += stream.encode(frame)
        packets += stream.encode()
        kept = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        for turn in range(seconds // (SHOT * SHOTS)):
            for data, pts, dts, key in kept:
                packet = av.Packet(data)
                packet.pts, packet.dts = pts + turn * per_round, dts + turn * per_round
                packet.duration, packet.time_base = 1, Fraction(1, FPS)
                packet.is_keyframe, packet.stream = key, stream
                container.mux(packet)
    return path


def decode(path: Path) -> int:
    """Decode all, and nothing else."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def look(path: Path) -> int:
    """Look for the changes of shot, as a reader does for `select: Cuts`."""
    seconds = shown_frames(path, FPS, 0.0, Limits()) / FPS
    return sum(len(changes_of_shot(path, Limits(), part)) for part in parts_of_film(seconds))


def count(path: Path) -> int:
    """Count the frames without decoding, as `select: Even` does."""
    return shown_frames(path, FPS, 0.0, Limits())


DOING = {"decode": decode, "look": look, "count": count}


def measured(what: str, path: Path) -> dict[str, float]:
    """What one of them takes in a process of its own: seconds, processor seconds, MiB at the peak, and its result."""
    command = [sys.executable, "-m", "tests.bench.long_film", what, str(path)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def _measure(what: str, path: Path) -> None:
    before, begun = time.process_time(), time.perf_counter()
    result = DOING[what](path)
    sys.stdout.write(
        json.dumps(
            {
                "wall": time.perf_counter() - begun,
                "cpu": time.process_time() - before,
                "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "result": result,
            }
        )
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(minutes: int, pan: int) -> None:
    """Print a table of films of a tenth of the length and of all of it."""
    with tempfile.TemporaryDirectory() as folder:
        for length in (max(1, minutes // 10), minutes):
            path = long_film(Path(folder) / f"{length}.mp4", 60 * length, pan=pan)
            found = {what: measured(what, path) for what in DOING}
            ratio = found["look"]["cpu"] / found["decode"]["cpu"]
            _say(f"{length} min, {path.stat().st_size >> 20} MiB, cuts wanted {60 * length // SHOT - 1}")
            for what, row in found.items():
                _say(f"  {what:7} " + "  ".join(f"{name} {value:.1f}" for name, value in row.items()))
            _say(f"  looking takes {ratio:.2f} times the processor time of decoding")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in DOING:
        _measure(sys.argv[1], Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 60, pan=int("still" not in sys.argv))
