"""Make the weights of `nano` from drawn clips and the demo's real ones, less the one that the demo fine-tunes on.

`python -m demo.nano` (`make nano`); arguments go on to `python -m demo.nano.making`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from demo import clips
from demo.nano import making


def main(arguments: Sequence[str]) -> int:
    """Lay the clips and their captions into a folder and train; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="mochi-nano-") as folder:
        for clip in clips.bundled():
            place = Path(folder) / f"{clip.name}{clip.path.suffix}"
            place.symlink_to(clip.path)
            place.with_suffix(".txt").write_text(clip.caption + "\n")
        return making.main(["--real", folder, "--held", clips.TUNED, *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
