"""What the command line takes: the commands of `python -m mochi_trainer` and their options."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import get_args

from mochi_api.outcomes import TABLE, TERMINATION_LOG
from mochi_api.runfile import RUN_FILE_PATH, STAGES, Stage
from mochi_api.spec import Preset

TERMINATION_LOG_ENV = "MOCHI_TERMINATION_LOG"
HELP: dict[Stage, str] = {
    "check": "look at storage, dataset and model before anything is paid for, within a minute",
    "trim": "cut and crop the clips of the dataset to the length and size of training",
    "captions": "turn the captions into T5 features",
    "videos": "turn the trimmed clips into latents",
    "train": "train the adapter (mode lora) or all weights (mode full)",
    "sample": "make sample videos from the tuned weights",
    "preview": "make sample videos from the newest checkpoint, while the training goes on",
}


def command_line() -> argparse.ArgumentParser:
    """The parser of `python -m mochi_trainer`; an option has the name of the field that it becomes."""
    rows = [row for row in TABLE if row.exit_code is not None]
    codes = "\n".join(f"  {row.exit_code:>3}  {row.reason:<18} {row.action}" for row in rows)
    parser = argparse.ArgumentParser(
        prog="python -m mochi_trainer",
        description="Fine-tune Mochi-1, one stage at a time. The order is: " + ", ".join(STAGES) + "; "
        "preview runs beside train.",
        epilog=f"exit codes, and what to do:\n{codes}\n\nS3 credentials come from the environment "
        f"(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the machine's identity.\n"
        f"The outcome is also written as one JSON line to {TERMINATION_LOG} (or ${TERMINATION_LOG_ENV}).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for stage, text in HELP.items():
        command = commands.add_parser(stage, help=text, description=_sentence(text))
        command.add_argument(
            "--run",
            type=Path,
            default=Path(RUN_FILE_PATH),
            metavar="FILE",
            help=f"run file (YAML), by default {RUN_FILE_PATH}",
        )
        if stage == "sample":
            _sample_arguments(command)
    text = "tell what a safetensors file is, whether it is whole, and what to do with it"
    command = commands.add_parser("inspect", help=text, description=_sentence(text))
    command.add_argument("file", type=_file, metavar="FILE", help="or a folder with one such file")
    text = "turn a LoRA or a transformer into the form that another tool takes"
    _export_arguments(commands.add_parser("export", help=text, description=_sentence(text)))
    text = "look at a folder of clips, or turn it into what training reads, without a run file"
    _preprocess_arguments(commands.add_parser("preprocess", help=text, description=_sentence(text)))
    text = "list what a cache holds and what no run uses any more, and remove that on request"
    _cache_arguments(commands.add_parser("cache", help=text, description=_sentence(text)))
    text = "look at long films: cuts, segments, near-duplicates, warnings; make clips and captions of them"
    _footage_arguments(commands.add_parser("footage", help=text, description=_sentence(text)))
    text = "tell what a training will need and how long it takes on which GPU, from its file alone"
    _plan_arguments(commands.add_parser("plan", help=text, description=_sentence(text)))
    text = "measure training steps on the GPU that is there, or count what they would do without one"
    _bench_arguments(commands.add_parser("bench", help=text, description=_sentence(text)))
    return parser


def _sentence(text: str) -> str:
    """Names such as GPU and LoRA stay as they are."""
    return f"{text[0].upper()}{text[1:]}."


def _file(text: str) -> Path:
    """A file of this machine; of an address the words say what to do."""
    return Path(_file_text(text))


def _file_text(text: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise argparse.ArgumentTypeError(f"must be a file on this machine, got {text}: download it first")
    return text


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return number


def _plan_arguments(command: argparse.ArgumentParser) -> None:
    text = "a MochiFineTune as it is applied, or a run file"
    command.add_argument("file", nargs="?", type=_file, metavar="FILE", help=text)
    command.add_argument("--run", type=Path, metavar="FILE", help="the same")
    text = "only this product, as the node label nvidia.com/gpu.product names it"
    command.add_argument("--gpu", default="", metavar="PRODUCT", help=text)
    command.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")


def _bench_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", choices=get_args(Preset), default="mochi-1", help="by default mochi-1")
    text = (
        "lora:FRAMES or full:FRAMES; can be repeated; by default both modes at 37, 61, 79, 85 and 163 frames"
    )
    command.add_argument("--case", action="append", default=[], metavar="MODE:FRAMES", help=text)
    text = "the cases share them, the first ones come first; by default 8"
    command.add_argument("--minutes", type=float, default=8.0, metavar="N", help=text)
    text = "folder for bench.csv and bench.md, by default bench"
    command.add_argument("--out", type=Path, default=Path("bench"), metavar="DIR", help=text)


def _footage_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="DIR", help="MP4, MOV and M4V files, in subfolders too")
    text = "cuts: segments inside shots, never over a change (the default); even: evenly over the film"
    command.add_argument("--segments", choices=("cuts", "even"), default="cuts", help=text)
    command.add_argument(
        "--seconds", type=_finite, default=2.5, metavar="N", help="of a segment, by default 2.5"
    )
    command.add_argument(
        "--count", type=int, default=4, metavar="N", help="segments of a film at most, by default 4"
    )
    text = "write the segments there as clips; what is there already stays"
    command.add_argument("--out", type=Path, metavar="DIR", help=text)
    command.add_argument("--duplicates", action="store_true", help="tell which films show nearly the same")
    text = "with --out: make no clips of the copies"
    command.add_argument("--drop-duplicates", action="store_true", help=text)
    group = command.add_argument_group("captions, for clips that have no .txt file beside them")
    text = "base address of an endpoint with OpenAI's chat interface, such as http://127.0.0.1:8000/v1"
    group.add_argument("--caption-url", default="", metavar="URL", help=text)
    group.add_argument("--caption-model", default="", metavar="NAME", help="a model that sees pictures")
    group.add_argument(
        "--caption-prompt", default="", metavar="TEXT", help="what is asked, instead of the usual"
    )
    text = "environment variable with the key, by default MOCHI_CAPTION_KEY"
    group.add_argument("--caption-key-variable", default="MOCHI_CAPTION_KEY", metavar="NAME", help=text)
    group.add_argument(
        "--at-once", type=int, default=4, metavar="N", help="questions at a time, by default 4"
    )


EXPORTS = {
    "diffusers": "LoRA for load_lora_weights",
    "native": "LoRA for ComfyUI and the published code",
    "merged": "base with the LoRA in its weights",
    "diffusers-folder": "dit.safetensors for MochiTransformer3DModel",
    "published": "a transformer of Diffusers as dit.safetensors",
}


def _export_arguments(command: argparse.ArgumentParser) -> None:
    text = "a LoRA of this or another tool, or its folder (several, times WEIGHT, add up), or a transformer (file or folder)"
    command.add_argument("files", nargs="+", type=_file_text, metavar="FILE[:WEIGHT]", help=text)
    text = "; ".join(f"{name}: {what}" for name, what in EXPORTS.items())
    command.add_argument("--to", choices=EXPORTS, required=True, help=text)
    text = "folder to make, with the model card README.md"
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)
    text = "the base for --to merged: its folder or dit.safetensors; by default that of nano"
    command.add_argument("--model", type=Path, metavar="DIR", help=text)
    text = "refuse files of another model"
    command.add_argument("--preset", choices=get_args(Preset), help=text)


def _preprocess_arguments(command: argparse.ArgumentParser) -> None:
    text = "folder or s3://bucket/prefix with the clips and their captions"
    command.add_argument("clips", metavar="ADDRESS", help=text)
    text = "folder or s3://bucket/prefix for the cache that training reads"
    command.add_argument("--out", metavar="ADDRESS", help=text)
    text = "only tell of each clip whether it can be used, and what is worth a look; needs no GPU and keeps nothing"
    command.add_argument("--check", action="store_true", help=text)
    command.add_argument("--preset", choices=get_args(Preset), default="mochi-1", help="by default mochi-1")
    text = "folder, s3://bucket/prefix or hf://owner/name with the weights; nano brings its own"
    command.add_argument("--model", metavar="ADDRESS", help=text)
    for name in ("frames", "width", "height", "fps"):
        command.add_argument(f"--{name}", type=int, metavar="N", help="as preprocessing." + name)
    text = "as preprocessing.segments.select"
    command.add_argument("--segments", choices=("First", "Even", "Cuts"), help=text)
    text = "as preprocessing.segments.maxPerClip"
    command.add_argument("--max-per-clip", type=int, metavar="N", help=text)
    command.add_argument(
        "--missing-caption", choices=("Fail", "Empty", "Skip"), help="as preprocessing.missingCaption"
    )
    text = "as preprocessing.maxFailedItemsPercent"
    command.add_argument("--max-failed-items-percent", type=int, metavar="N", help=text)
    command.add_argument("--endpoint", default="", metavar="URL", help="an S3 server that is not AWS")


def _cache_arguments(command: argparse.ArgumentParser) -> None:
    text = "outputURI or cacheURI of the runs: what lies above cache/; or a folder"
    command.add_argument("address", metavar="ADDRESS", help=text)
    text = "another outputURI whose runs share this cache; can be repeated; by default ADDRESS itself"
    command.add_argument("--runs", action="append", default=[], metavar="ADDRESS", help=text)
    text = "leave alone what is younger; by default 7"
    command.add_argument("--young-days", type=_finite, default=7.0, metavar="DAYS", help=text)
    text = "delete what no run that is kept uses"
    command.add_argument("--remove", action="store_true", help=text)
    text = "an S3 server that is not AWS"
    command.add_argument("--endpoint", default="", metavar="URL", help=text)


def _sample_arguments(command: argparse.ArgumentParser) -> None:
    """What takes the place of a run file on a workstation."""
    group = command.add_argument_group("without a run file (with --prompt or --prompts)")
    group.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="can be repeated")
    group.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line")
    group.add_argument(
        "--preset", choices=get_args(Preset), help="by default mochi-1 with --model, else nano"
    )
    group.add_argument(
        "--model",
        metavar="ADDRESS",
        help="folder, s3://bucket/prefix or hf://owner/name with the published files or those of Diffusers",
    )
    text = "of this or another tool, or its folder; can be repeated, effects times WEIGHT add up"
    group.add_argument(
        "--lora", action="append", type=_file_text, default=[], metavar="FILE[:WEIGHT]", help=text
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed makes the same video")
    group.add_argument("--steps", type=int, metavar="N", help="by default 64")
    group.add_argument("--guidance", type=float, metavar="X", help="by default 6.0")
    text = "8 steps, threshold 0.1, 6 linear steps, guidance 1.5"
    group.add_argument("--fast", action="store_true", help=text)
    for name in ("frames", "width", "height", "fps"):
        group.add_argument(f"--{name}", type=int, metavar="N")
    text = "folder for sample-00.mp4, sample-00.png, ..., by default samples"
    group.add_argument("--out", type=Path, default=Path("samples"), metavar="DIR", help=text)
