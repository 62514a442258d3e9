"""The stage trim against the guide's way: moviepy into an H.264 file, which is read again for the encoder.

`python -m tests.bench.trim_against_the_guide [--clips 12] [--repeats 3] [--kinds 720p 4K ...]`. moviepy is installed from the
registries into an environment below a temporary folder. Both sides take turns, each in processes of its own; figures are
medians, ratios those of one turn. Memory is the peak of the proportional set sizes (PSS) of all processes together.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from tests.bench.process_memory import peak_of
from tests.trainer.preprocessing_runs import run_file
from tests.trainer.video.clips import real_clip

FASTER, SMALLER = 3.0, 0.5
"""What is claimed: so many times the clips a minute, at most this part of the memory."""

FRAMES, WIDTH, HEIGHT = 37, 848, 480
REAL = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
SOURCE_FRAMES = 45
MIB = 1 << 20

GUIDE = ("moviepy==1.0.3", "pillow==9.5.0", "numpy==1.26.4", "imageio-ffmpeg==0.6.0")
"""Those of the guide's time; ffmpeg is the one that imageio-ffmpeg carries."""

GUIDE_CODE = """
import sys
from pathlib import Path
from moviepy.editor import VideoFileClip

source, target, frames, width, height = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
seconds = frames / 30 + 0.09
for path in sorted([*source.rglob("*.mp4"), *source.rglob("*.mov")]):
    video = VideoFileClip(str(path))
    assert video.duration >= seconds and video.w >= width and video.h >= height, path
    cut = video.subclip(0, seconds)
    if cut.w / cut.h > width / height:
        across = int(cut.h * width / height)
        cut = cut.crop(x1=(cut.w - across) // 2, width=across)
    else:
        upright = int(cut.w / (width / height))
        cut = cut.crop(y1=(cut.h - upright) // 2, height=upright)
    final = cut.resize((width, height)).set_fps(30)
    final.write_videofile(
        str(target / f"{path.stem}.mp4"), codec="libx264", audio=False, preset="medium", bitrate="5000k", logger=None
    )
    video.close(), cut.close(), final.close()
"""
"""The calls of the guide's script, with its settings, one clip after the other."""

READ_CODE = """
import sys
from pathlib import Path
import av, numpy
for path in sorted([*Path(sys.argv[1]).rglob("*.mp4"), *Path(sys.argv[1]).rglob("*.mov")]):
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        frames = numpy.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert len(frames) >= 37, path
"""
"""As the encoder's step of the guide reads a file: every picture as RGB."""

OWN_READ_CODE = """
import sys
from pathlib import Path
from mochi_trainer.video import read_frames
for path in sorted(Path(sys.argv[1]).rglob("*.mov")):
    assert len(read_frames(path, 37)) == 37, path
"""
"""As the stage videos reads its copies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How the real clips are made into material; no codec: the first of them as it is."""

    codec: str = ""
    size: tuple[int, int] = (1280, 720)
    pixels: str = "yuv420p"
    ending: str = ".mp4"
    options: tuple[tuple[str, str], ...] = ()


KINDS: dict[str, Kind] = {
    "720p": Kind(),
    "1080p": Kind(codec="libx264", size=(1920, 1080), options=(("crf", "18"), ("preset", "fast"))),
    "4K": Kind(codec="libx264", size=(3840, 2160), options=(("crf", "18"), ("preset", "veryfast"))),
    "HEVC 1080p 10 bit": Kind(
        codec="libx265", size=(1920, 1080), pixels="yuv420p10le",
        options=(("crf", "20"), ("preset", "veryfast"), ("x265-params", "log-level=error")),
    ),
    "ProRes 1080p": Kind(codec="prores_ks", size=(1920, 1080), pixels="yuv422p10le", ending=".mov"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One side, once over a folder."""

    wall: float
    cpu: float
    peak: float
    """MiB."""
    reading: float
    """Seconds of `wall` in which what was written is read again."""
    written: float
    """MB a clip."""


def material(folder: Path, kind: Kind, count: int) -> Path:
    """`count` clips of a kind, with captions; three different ones."""
    folder.mkdir()
    made: list[Path] = []
    for name in REAL[:count] if kind.codec else REAL[:1]:
        path = folder / f"{Path(name).stem}-00{kind.ending}"
        if kind.codec:
            _converted(real_clip(name), path, kind)
        else:
            shutil.copyfile(real_clip(name), path)
        made.append(path)
    for number in range(len(made), count):
        first = made[number % len(made)]
        made.append(folder / f"{first.stem[:-3]}-{number:02}{kind.ending}")
        shutil.copyfile(first, made[-1])
    for path in made:
        path.with_suffix(".txt").write_text(f"the clip {path.stem}")
    return folder


def _converted(source: Path, target: Path, kind: Kind) -> None:
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream: Any = writer.add_stream(
            kind.codec, rate=reader.streams.video[0].average_rate, options=dict(kind.options)
        )
        stream.width, stream.height = kind.size
        stream.pix_fmt = kind.pixels
        for number, frame in enumerate(reader.decode(video=0)):
            if number == SOURCE_FRAMES:
                break
            scaled = frame.reformat(*kind.size, format=kind.pixels, interpolation="BICUBIC")
            scaled.pts, scaled.time_base = number, 1 / reader.streams.video[0].average_rate
            writer.mux(stream.encode(scaled))
        writer.mux(stream.encode())


def measured(*commands: Sequence[str]) -> tuple[list[float], float, float]:
    """(wall seconds of each, CPU seconds of all, the highest peak in MiB); raise when one fails."""
    walls, peaks = [], []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(command[0])
        )
        peaks.append(peak_of(process) / MIB)
        walls.append(time.monotonic() - started)
        if process.returncode:
            raise RuntimeError(f"{command[:3]} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return walls, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, max(peaks)


def _environment(python: str) -> dict[str, str]:
    """This one's packages are for this one's Python only."""
    path = os.pathsep.join(path for path in sys.path if path) if python == sys.executable else ""
    return {**os.environ, "PYTHONPATH": path, "MOCHI_TERMINATION_LOG": os.devnull}


def turn(commands: Sequence[Sequence[str]], written: Callable[[], Sequence[Path]]) -> Turn:
    """Run what makes the clips and what reads them again."""
    walls, cpu, peak = measured(*commands)
    sizes = [path.stat().st_size for path in written()]
    return Turn(wall=sum(walls), cpu=cpu, peak=peak, reading=walls[-1], written=sum(sizes) / len(sizes) / 1e6)


def guide(python: Path, source: Path, folder: Path) -> Turn:
    """The guide's way."""
    folder.mkdir()
    numbers = [str(number) for number in (FRAMES, WIDTH, HEIGHT)]
    trim = [str(python), "-c", GUIDE_CODE, str(source), str(folder), *numbers]
    return turn([trim, [sys.executable, "-c", READ_CODE, str(folder)]], lambda: list(folder.glob("*.mp4")))


def ours(source: Path, folder: Path) -> Turn:
    """The stage as its pod runs it, and reading its copies as the next stage does."""
    folder.mkdir()
    run = run_file(folder, source=f"file://{source}", frames=FRAMES, width=WIDTH, height=HEIGHT)
    (folder / "run.yaml").write_text(run.to_yaml())
    trim = [sys.executable, "-m", "mochi_trainer", "trim", "--run", str(folder / "run.yaml")]
    read = [sys.executable, "-c", OWN_READ_CODE, str(folder / "cache")]
    return turn([trim, read], lambda: list((folder / "cache").rglob("*.mov")))


def compare(python: Path, folder: Path, name: str, clips: int, repeats: int) -> bool:
    """Print the line of one kind of material; whether both bounds hold."""
    source = material(folder / "source", KINDS[name], clips)
    turns: list[tuple[Turn, Turn]] = []
    for number in range(repeats):
        turns.append((guide(python, source, folder / "guide"), ours(source, folder / f"ours-{number}")))
        shutil.rmtree(folder / "guide")
        shutil.rmtree(folder / f"ours-{number}")
    faster = statistics.median(theirs.wall / own.wall for theirs, own in turns)
    smaller = statistics.median(own.peak / theirs.peak for theirs, own in turns)
    cells = [
        f"{_median(side, lambda t: clips / t.wall * 60):.0f} | {_median(side, lambda t: t.cpu / clips):.2f} | "
        f"{_median(side, lambda t: t.peak):.0f} | {_median(side, lambda t: t.reading / clips):.2f} | "
        f"{_median(side, lambda t: t.written):.1f}"
        for side in zip(*turns, strict=True)
    ]
    _say(f"| {name} | {cells[0]} | {cells[1]} | {faster:.2f} | {smaller:.2f} |")
    return faster >= FASTER and smaller <= SMALLER


def _median(side: Sequence[Turn], of: Callable[[Turn], float]) -> float:
    return statistics.median(of(turn) for turn in side)


def _installed(folder: Path) -> Path:
    """A Python of its own with what the guide's script needs."""
    python = folder / "bin" / "python"
    for arguments in (
        ["venv", "--python", sys.executable, str(folder)],
        ["pip", "install", "--python", str(python), *GUIDE],
    ):
        subprocess.run([sys.executable, "-m", "uv", "-q", *arguments], check=True)
    return python


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the benchmark; the exit code says whether what is claimed holds for every kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        python = _installed(Path(name) / "guide")
        _say(
            f"{options.clips} clips, {options.repeats} turns, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n"
        )
        side = "clips/min | CPU s/clip | MiB | reading s/clip | MB/clip"
        _say(f"| material | guide: {side} | ours: {side} | faster | memory |\n|{'---|' * 13}")
        held = []
        for number, kind in enumerate(options.kinds):
            folder = Path(name) / str(number)
            folder.mkdir()
            held.append(compare(python, folder, kind, options.clips, options.repeats))
            shutil.rmtree(folder)
    _say(
        f"\n{FASTER:g} times the clips a minute with {SMALLER:g} of the memory: {'held' if all(held) else 'broken'}"
    )
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
