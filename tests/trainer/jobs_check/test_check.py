"""The command check: what is wrong is found before anything is paid for, all of it at once, and named."""

from __future__ import annotations

import copy
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi_api.runfile import RunFile
from mochi_api.spec import S3Spec
from mochi_trainer import lora, presets, weights
from mochi_trainer.errors import (
    AccessDeniedError,
    DatasetRejectedError,
    InvalidInputError,
    MissingObjectError,
    StorageError,
    TrainerError,
)
from mochi_trainer.jobs import check, trim
from mochi_trainer.jobs.checks.model import room_warnings
from mochi_trainer.jobs.checks.places import Limits
from mochi_trainer.presets.catalogue import NANO_FOLDER
from mochi_trainer.storage import Patience, open_store
from mochi_trainer.weights.diffusers_layout import decoder_table, diffusers_layout, dit_layout, encoder_table
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.jobs_check.servers import read_only_server, silent_server
from tests.trainer.preprocessing_runs import run_file, write_source

SHORT = Limits(patience=Patience(connect_seconds=1, read_seconds=0.5, attempts=2, first_seconds=0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_source(tmp_path / "source")
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The files of nano in a folder of their own."""
    return Path(shutil.copytree(NANO_FOLDER, tmp_path / "model"))


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of no server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")


@pytest.fixture
def read_only_bucket(keys: None) -> Iterator[S3Spec]:
    """A server whose buckets nobody may write to."""
    with read_only_server() as endpoint:
        yield S3Spec(endpoint=endpoint, path_style=True)


def with_model(run: RunFile, address: Path | str) -> RunFile:
    place = address if isinstance(address, str) else f"file://{address}"
    return run.model_copy(update={"locations": run.locations.model_copy(update={"model": place})})


def with_start(run: RunFile, address: str, **lora: Any) -> RunFile:
    """The run with `startFrom`; the spec's pattern takes S3 only, files lie in a folder here."""
    spec = run.training.lora.model_copy(update={"start_from": address, **lora})
    return run.model_copy(update={"training": run.training.model_copy(update={"lora": spec})})


def problem(run: RunFile, limits: Limits | None = None) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        check.execute(run, limits)
    return caught.value


class TestAGoodRun:
    def test_is_counted_and_leaves_nothing_behind(self, root: Path) -> None:
        done = check.execute(run_file(root))
        assert done.result.clips == 2
        assert [line.partition(" at ")[0] for line in done.result.checked[:3]] == [
            "results can be written and read",
            "cache can be written and read",
            "2 of 2 clips",
        ]
        assert done.result.checked[3] == "the weights in the image: dit, encoder, decoder, t5 fit nano"
        assert done.result.warnings == []
        assert [path for path in root.rglob("check-*") if path.is_file()] == []

    def test_is_good_in_s3_too(self, root: Path, model: Path, s3_server: Server) -> None:
        base = f"s3://{BUCKET}/{uuid4().hex}"
        for name in ("source", "model"):
            store = open_store(f"{base}/{name}", s3_server.spec)
            for path in (path for path in (root / name).rglob("*") if path.is_file()):
                store.put(path, path.relative_to(root / name).as_posix())
        run = with_model(run_file(base, s3=s3_server.spec), f"{base}/model")
        assert check.execute(run).result.clips == 2
        left = [info.key for info in open_store(base, s3_server.spec).list() if "check-" in info.key]
        assert left == []

    def test_is_good_with_a_model_in_a_hub_cache(self, root: Path, model: Path) -> None:
        snapshot = root / "hub" / "models--genmo--nano" / "snapshots" / "abc"
        shutil.copytree(model, snapshot)
        refs = root / "hub" / "models--genmo--nano" / "refs"
        refs.mkdir()
        (refs / "main").write_text("abc")
        assert check.execute(with_model(run_file(root), root / "hub")).result.clips == 2

    def test_is_good_with_the_files_of_diffusers(self, root: Path, model: Path) -> None:
        folder = root / "diffusers"
        for name in ("transformer", "vae"):
            (folder / name).mkdir(parents=True)
        nano = presets.preset_named("nano")
        dit = dit_layout(load_file(model / "dit.safetensors"), nano.dit.depth)
        save_file(dit, folder / "transformer" / "diffusion_pytorch_model.safetensors")
        halves = {"encoder": encoder_table(nano.encoder), "decoder": decoder_table(nano.decoder)}
        vae = {
            f"{half}.{name}": tensor
            for half, table in halves.items()
            for name, tensor in diffusers_layout(load_file(model / f"{half}.safetensors"), table).items()
        }
        save_file(vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
        shutil.copytree(model / "t5", folder / "text_encoder")
        assert check.execute(with_model(run_file(root), folder)).result.clips == 2
        del vae["decoder.conv_in.bias"]
        save_file(vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
        assert "decoder.conv_in.bias is missing" in str(problem(with_model(run_file(root), folder)))

    def test_counts_the_first_clips_only_with_max_clips(self, root: Path) -> None:
        assert check.execute(run_file(root, max_clips=1)).result.clips == 1


class TestStorage:
    def test_a_bucket_that_is_missing_is_named_once(self, s3_server: Server, root: Path) -> None:
        run = run_file("s3://no-such-bucket/x", s3=s3_server.spec, source=f"file://{root}/source")
        error = problem(run)
        assert isinstance(error, MissingObjectError)
        assert "bucket no-such-bucket of s3://no-such-bucket/x/runs/0-1/" in str(error)

    def test_a_folder_that_cannot_be_written_to_is_no_place_for_results(self, root: Path) -> None:
        (root / "cache").write_text("a file where the folder should be")
        error = problem(run_file(root))
        assert isinstance(error, StorageError)
        assert f"file://{root}/cache/check-" in str(error)

    def test_a_bucket_that_may_only_be_read_is_refused_with_what_to_allow(
        self, root: Path, read_only_bucket: S3Spec
    ) -> None:
        error = problem(run_file("s3://data/x", s3=read_only_bucket, source=f"file://{root}/source"))
        assert isinstance(error, AccessDeniedError)
        assert "s3://data/x/runs/0-1/ cannot be written to: " in str(error)
        assert error.action.startswith("let the credentials write below s3://data/x/runs/0-1/")

    def test_a_server_that_accepts_and_never_answers_is_told_in_time(self, root: Path, keys: None) -> None:
        with silent_server() as endpoint:
            spec = S3Spec(endpoint=endpoint, path_style=True)
            started = time.monotonic()
            error = problem(run_file("s3://data/x", s3=spec), SHORT)
            assert time.monotonic() - started < 60
        assert isinstance(error, StorageError)
        assert "s3://data/x/runs/0-1/check-" in str(error)
        assert endpoint in str(error)
        assert re.search(r"\(waited [1-9] s\)$", str(error))
        assert "s3://data/x/cache" not in str(error)
        assert "s3://data/x/source" not in str(error)

    def test_the_usual_limits_of_a_silent_server_are_below_half_a_minute(self) -> None:
        limits = Limits()
        assert limits.patience.attempts * limits.patience.read_seconds < limits.answer_seconds < 30
        assert limits.total_seconds + limits.report_seconds < 60


class TestDataset:
    def test_an_empty_prefix_says_what_to_do_and_what_else_lies_there(self, root: Path) -> None:
        shutil.rmtree(root / "source")
        error = problem(run_file(root))
        assert isinstance(error, DatasetRejectedError)
        assert str(error) == f"no MP4 or MOV file below file://{root}/source: nothing is there"
        assert error.action.startswith("upload clips there or correct dataset.source")
        (root / "source").mkdir()
        (root / "source" / "readme.md").write_text("no clip")
        assert str(problem(run_file(root))).endswith(": 1 other file, such as readme.md")
        (root / "source" / "readme.md").unlink()
        (root / "source" / ".a.mp4").write_bytes(b"hidden")
        assert str(problem(run_file(root))).endswith(
            ": nothing is there but 1 video that does not count: 1 hidden (such as .a.mp4)"
        )

    def test_files_of_another_container_are_rejected_with_the_command_that_converts_them(
        self, root: Path
    ) -> None:
        for path in list((root / "source").iterdir()):
            path.unlink()
        (root / "source" / "a.webm").write_bytes(b"webm")
        (root / "source" / "a.txt").write_text("a caption")
        error = problem(run_file(root))
        assert isinstance(error, DatasetRejectedError)
        assert str(error).startswith("1 of 1 clips cannot be used: a.webm: .webm files are not read")
        assert "convert it: ffmpeg -i" in str(error)
        assert "maxFailedItemsPercent" not in error.action

    def test_a_missing_and_an_empty_caption_fail_unless_the_spec_says_otherwise(self, root: Path) -> None:
        for spoil in (lambda path: path.write_text(""), Path.unlink):
            spoil(root / "source" / "bunny.txt")
            error = problem(run_file(root))
            assert isinstance(error, MissingObjectError)
            assert str(error).startswith("clip bunny.mp4 has no caption: ")
            assert "set preprocessing.missingCaption to Empty or Skip" in error.action
            assert check.execute(run_file(root, missingCaption="Empty")).result.clips == 2
            skipped = check.execute(run_file(root, missingCaption="Skip")).result
            assert (skipped.clips, skipped.warnings) == (
                1,
                ["1 clip without caption is left out, such as bunny.mp4"],
            )

    def test_a_caption_under_the_name_of_its_video_is_seen(self, root: Path) -> None:
        (root / "source" / "bunny.txt").rename(root / "source" / "bunny.mp4.txt")
        error = problem(run_file(root))
        assert str(error).endswith("but bunny.mp4.txt is there; rename it to bunny.txt")
        assert error.action.startswith("rename each such file")

    def test_captions_of_many_clips_in_one_file_are_seen(self, root: Path) -> None:
        (root / "source" / "bunny.txt").rename(root / "source" / "metadata.jsonl")
        error = problem(run_file(root))
        assert str(error).endswith(
            "but metadata.jsonl is there, which is not read: each clip has its caption in a .txt file beside it"
        )
        assert error.action.startswith("write the caption of each clip into a .txt file")

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ("ein Hund".encode("utf-16"), "the caption bunny.txt is UTF-16: save it as UTF-8"),
            (
                b"caf\xe9",
                "the caption bunny.txt is not UTF-8 (byte 3) but probably Latin-1, in which it reads 'café': "
                "save it as UTF-8",
            ),
            (
                "ein Hund".encode("utf-16-le"),
                "the caption bunny.txt is not UTF-8 text (byte 1 is zero, as in UTF-16): save it as UTF-8",
            ),
        ],
    )
    def test_a_caption_in_another_encoding_is_named_with_it(
        self, root: Path, data: bytes, words: str
    ) -> None:
        (root / "source" / "bunny.txt").write_bytes(data)
        error = problem(run_file(root))
        assert isinstance(error, DatasetRejectedError)
        assert str(error).endswith(f"bunny.mp4: {words}")
        assert "or raise preprocessing.maxFailedItemsPercent to at least 50" in error.action
        tolerated = check.execute(run_file(root, maxFailedItemsPercent=50)).result
        assert tolerated.clips == 1
        assert tolerated.warnings == [f"1 clips cannot be used: bunny.mp4: {words}"[:200]]

    @pytest.mark.parametrize(
        "blank", [b"", b"  \n ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", "\u200b\u00a0".encode()]
    )
    def test_a_caption_of_blanks_counts_as_none(self, root: Path, blank: bytes) -> None:
        (root / "source" / "bunny.txt").write_bytes(blank)
        error = problem(run_file(root))
        assert isinstance(error, MissingObjectError)
        assert f"file://{root}/source/bunny.txt is empty" in str(error)
        assert check.execute(run_file(root, missingCaption="Skip")).result.warnings == [
            "1 clip without caption is left out, such as bunny.mp4"
        ]
        assert check.execute(run_file(root, missingCaption="Empty")).result.warnings == [
            "1 captions have no words and count as the empty prompt, such as bunny.txt"
        ]

    def test_a_caption_that_is_missing_hides_no_caption_that_is_wrong(self, root: Path) -> None:
        (root / "source" / "bunny.txt").unlink()
        (root / "source" / "carphone.txt").write_bytes(b"\xff\xfe")
        error = problem(run_file(root))
        assert isinstance(error, MissingObjectError)
        assert "carphone.MOV: the caption carphone.txt is UTF-16" in str(error)

    def test_videos_that_are_left_out_are_told(self, root: Path) -> None:
        (root / "source" / "bunny.recon.mp4").write_bytes(b"blurred")
        (root / "source" / ".Trash-1000").mkdir()
        (root / "source" / ".Trash-1000" / "old.mp4").write_bytes(b"thrown away")
        done = check.execute(run_file(root)).result
        assert done.clips == 2
        assert done.warnings == [
            "2 videos are left out: 1 a reconstruction by Mochi's own fine-tuner (such as bunny.recon.mp4), "
            "1 hidden (such as .Trash-1000/old.mp4)"
        ]

    def test_results_below_the_dataset_are_no_clips_of_the_second_run(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = run_file(root, source=f"file://{root}")
        first = trim.execute(run)
        sample = root / "runs" / "another" / "samples" / "sample-00.mp4"
        sample.parent.mkdir(parents=True)
        sample.write_bytes(b"a video of another run")
        caplog.set_level("INFO")
        second = trim.execute(run)
        assert second.result.items_total == first.result.items_total == 2
        assert second.result.cache_hit
        assert f"below file://{root}/cache/ are results of runs: left out" in caplog.text
        assert f"1 objects below file://{root}/runs/ are results of runs: left out" in caplog.text
        assert check.execute(run).result.clips == 2

    def test_a_dataset_below_the_results_of_runs_is_legal(self, root: Path) -> None:
        shutil.copytree(root / "source", root / "runs" / "data")
        assert check.execute(run_file(root, source=f"file://{root}/runs/data")).result.clips == 2

    def test_a_listing_that_takes_too_long_is_judged_by_its_beginning(self, root: Path) -> None:
        for number in range(3):
            shutil.copyfile(root / "source" / "bunny.mp4", root / "source" / f"a{number}.mp4")
        result = check.execute(run_file(root), Limits(listing_seconds=0)).result
        assert result.clips == 0
        assert result.warnings[0].startswith("only the first 1 objects below ")


class TestModel:
    def test_a_truncated_part_is_found_with_both_sizes(self, root: Path, model: Path) -> None:
        path = model / "dit.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        error = problem(with_model(run_file(root), model))
        assert isinstance(error, InvalidInputError)
        assert "dit.safetensors is truncated: it has 2504256 bytes, its header says 5008512" in str(error)
        assert error.action.startswith("get the files of nano again, or correct model.source")

    def test_the_weights_of_another_model_are_called_so_in_one_sentence(
        self, root: Path, model: Path
    ) -> None:
        tensors = load_file(model / "dit.safetensors")
        other = {
            name: torch.zeros([4 * size for size in tensor.shape] or [1])
            for name, tensor in tensors.items()
            if not name.startswith("blocks.2.")
        }
        save_file(other, model / "dit.safetensors")
        message = str(problem(with_model(run_file(root), model)))
        assert message.endswith(
            "dit.safetensors does not fit nano: these are the weights of another model, "
            "the file has 2 blocks of width 768 where nano has 3 of width 192"
        )

    def test_nano_in_the_place_of_mochi_1_is_recognised(self, root: Path, model: Path) -> None:
        run = with_model(run_file(root), model)
        run = run.model_copy(update={"model": run.model.model_copy(update={"preset": "mochi-1"})})
        message = str(problem(run))
        assert (
            "does not fit mochi-1: these are the weights of another model: the transformer of nano, "
            "the file has 3 blocks of width 192 where mochi-1 has 48 of width 3072"
        ) in message
        assert "t5/config.json is a T5 of width 64, mochi-1 takes one of width 4096" in message

    def test_one_part_in_the_place_of_another_is_recognised(self, root: Path, model: Path) -> None:
        shutil.copyfile(model / "decoder.safetensors", model / "encoder.safetensors")
        assert "encoder.safetensors does not fit nano: this is the decoder of nano" in str(
            problem(with_model(run_file(root), model))
        )

    def test_a_missing_tensor_is_named(self, root: Path, model: Path) -> None:
        for file, name in {
            "dit": "blocks.1.attn.proj_x.weight",
            "t5/model": "encoder.block.1.layer.1.DenseReluDense.wi_1.weight",
        }.items():
            path = model / f"{file}.safetensors"
            whole = path.read_bytes()
            tensors = load_file(path)
            del tensors[name]
            save_file(tensors, path)
            assert f"{name} is missing" in str(problem(with_model(run_file(root), model)))
            path.write_bytes(whole)

    def test_a_folder_without_a_model_is_one_problem(self, root: Path) -> None:
        error = problem(with_model(run_file(root), root / "source"))
        assert isinstance(error, MissingObjectError)
        assert str(error).startswith(f"no dit in file://{root}/source: ")
        assert str(error).endswith("; nor are encoder, decoder, t5 there")
        assert error.action.startswith("upload the files of the model there, or correct model.source")

    def test_a_disk_that_is_too_small_here_is_only_a_warning(self) -> None:
        assert room_warnings({"captions": 40 << 30, "training": 1 << 30}, 20 << 30) == [
            "captions will need 40 GiB of local disk, this pod has 20 GiB free: "
            "see that workers.resources.ephemeralStorage is enough"
        ]

    def test_mochi_1_without_a_source_is_invalid(self, root: Path) -> None:
        run = run_file(root)
        run = run.model_copy(update={"model": run.model.model_copy(update={"preset": "mochi-1"})})
        assert str(problem(run)) == "model.source is required: preset mochi-1 brings no weights"


class TestStartFrom:
    @pytest.fixture
    def file(self, root: Path) -> str:
        model = copy.deepcopy(weights.load_dit("nano"))
        params = lora.LoraParams(rank=8, alpha=8, targets=("query", "value"))
        lora.attach(model, params)
        save_file(lora.export_diffusers(lora.adapter_state(model), params), root / "lora.safetensors")
        tensors, metadata = lora.export_native(lora.adapter_state(model), params)
        save_file(tensors, root / "native.safetensors", metadata=metadata)
        return f"file://{root}/lora.safetensors"

    def test_a_lora_that_fits_is_good_in_both_formats(self, root: Path, file: str) -> None:
        for address in (file, f"file://{root}/native.safetensors"):
            result = check.execute(with_start(run_file(root), address)).result
            assert result.checked[-1] == f"{address} fits: rank 8 on query, value"

    def test_the_folder_of_peft_is_good_with_its_configuration(self, root: Path, file: str) -> None:
        """Its address ends with a slash; alpha is in the file beside."""
        (root / "peft").mkdir()
        renamed = {
            name.replace("transformer.", "base_model.model.", 1): tensor
            for name, tensor in load_file(root / "lora.safetensors").items()
        }
        save_file(renamed, root / "peft" / "adapter_model.safetensors")
        run = with_start(run_file(root), f"file://{root}/peft/")
        assert "which keeps alpha in adapter_config.json" in str(problem(run))
        (root / "peft" / "adapter_config.json").write_text('{"lora_alpha": 16, "r": 8}')
        assert check.execute(run).result.checked[-1] == f"file://{root}/peft/ fits: rank 8 on query, value"
        several = problem(with_start(run_file(root), f"file://{root}/"))
        assert isinstance(several, InvalidInputError)
        assert str(several).endswith("2 files of safetensors, name one: lora.safetensors, native.safetensors")

    def test_a_file_that_is_not_there_is_named(self, root: Path) -> None:
        error = problem(with_start(run_file(root), f"file://{root}/none.safetensors"))
        assert isinstance(error, MissingObjectError)
        assert str(error) == f"training.lora.startFrom: file://{root}/none.safetensors does not exist"

    def test_a_rank_or_a_target_that_does_not_fit_is_invalid(self, root: Path, file: str) -> None:
        low = problem(with_start(run_file(root), file, rank=4))
        assert str(low).endswith("cannot be used: its rank is 8, lora.rank must be at least that, got 4")
        other = problem(with_start(run_file(root), file, targets=["query"]))
        assert str(other).endswith("it has adapters for value, which lora.targets does not name")

    def test_a_file_that_is_no_lora_is_invalid(self, root: Path) -> None:
        error = problem(with_start(run_file(root), f"file://{NANO_FOLDER}/dit.safetensors"))
        assert isinstance(error, InvalidInputError)
        assert ".weight is no adapter of this model: it is whole weights" in str(error)


class TestSeveralProblems:
    def test_all_are_told_the_most_final_first(self, root: Path, model: Path) -> None:
        (root / "source" / "bunny.txt").unlink()
        (model / "decoder.safetensors").write_bytes(b"")
        error = problem(with_start(with_model(run_file(root), model), f"file://{root}/none.safetensors"))
        assert isinstance(error, InvalidInputError)
        first, second, third = str(error).removeprefix("3 problems: ").split("; ", 2)
        assert "decoder.safetensors is empty" in first
        assert "clip bunny.mp4 has no caption" in second
        assert "none.safetensors does not exist" in third
        assert error.action.startswith("get the files of nano again")

    def test_what_may_pass_by_itself_comes_last(self, root: Path, keys: None) -> None:
        (root / "source" / "bunny.txt").unlink()
        with silent_server() as endpoint:
            run = run_file(
                "s3://data/x", s3=S3Spec(endpoint=endpoint, path_style=True), source=f"file://{root}/source"
            )
            error = problem(run, SHORT)
        assert isinstance(error, MissingObjectError)
        assert "clip bunny.mp4 has no caption" in str(error)
        assert endpoint in str(error)
