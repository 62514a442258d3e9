"""Weights come from a folder, S3 and a hub cache alike, and what was altered on the way is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi_api.spec import S3Spec
from mochi_trainer.errors import DiskFullError, InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.presets import preset_named
from mochi_trainer.presets.catalogue import NANO_FOLDER
from mochi_trainer.storage import ObjectInfo, open_store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.storage.s3 import S3Store
from mochi_trainer.storage.s3_connection import Connection
from mochi_trainer.weights import (
    WeightsError,
    identity,
    load_decoder,
    load_dit,
    load_encoder,
    load_text_encoder,
    open_source,
)
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.diffusers_files import save_diffusers
from tests.trainer.loading import (
    SMALL,
    CountingStore,
    ShrinkingStore,
    same,
    state,
    write_published,
    write_shards,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOADERS = {"dit": load_dit, "encoder": load_encoder, "decoder": load_decoder}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hub_cache(files: Path, cache: Path, name: str = "owner/model") -> Path:
    """The files as a model in a hub cache: links in `snapshots` to blobs called by their sha256; return the model's folder."""
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / COMMIT
    for path in sorted(files.rglob("*")):
        if path.is_file():
            blob = model / "blobs" / sha256(path)
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, blob)
            link = snapshot / path.relative_to(files)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model


def in_s3(files: Path, server: Server) -> str:
    """The files below a prefix of their own; return its address."""
    address = f"s3://{BUCKET}/{uuid4().hex}/model"
    store = open_store(address, server.spec)
    for path in files.rglob("*"):
        if path.is_file():
            store.put(path, path.relative_to(files).as_posix())
    return address


@pytest.fixture
def published(tmp_path: Path) -> Path:
    write_published(tmp_path / "published")
    return tmp_path / "published"


class TestEverySource:
    @pytest.fixture(params=["folder", "file", "s3", "hf", "hf revision", "hub cache", "hub model"])
    def address(self, request, published: Path, tmp_path: Path) -> str:
        if request.param == "s3":
            return in_s3(published, request.getfixturevalue("s3_server"))
        hub_cache(published, tmp_path / "hub")
        return {
            "folder": str(published),
            "file": f"file://{published}",
            "hf": "hf://owner/model",
            "hf revision": f"hf://owner/model@{COMMIT}",
            "hub cache": str(tmp_path / "hub"),
            "hub model": str(tmp_path / "hub/models--owner--model"),
        }[request.param]

    @pytest.fixture
    def spec(self, request, address: str) -> S3Spec:
        return request.getfixturevalue("s3_server").spec if address.startswith("s3") else S3Spec()

    def test_gives_every_bit_of_every_part(self, address: str, spec: S3Spec, tmp_path: Path) -> None:
        source = open_source(address, spec, tmp_path / "hub")
        for part, load in LOADERS.items():
            assert same(load(SMALL, source), state(part)), part

    def test_has_one_identity_for_the_same_bytes(
        self, address: str, spec: S3Spec, published: Path, tmp_path: Path
    ) -> None:
        source = open_source(address, spec, tmp_path / "hub")
        parts = ["dit", "encoder", "decoder"]
        key = identity("nano", source, parts)
        assert key == identity("nano", source, parts)
        if not address.startswith("s3"):
            assert key == identity("nano", published, parts)


class NoDownloads(S3Store):
    """S3 that gives ranges but no file."""

    def get(self, key: str, to: Path) -> None:
        raise AssertionError(f"{key} must not be copied to {to}")


def test_weights_in_s3_are_read_without_a_copy_on_disk(published: Path, s3_server: Server) -> None:
    prefix = in_s3(published, s3_server).removeprefix(f"s3://{BUCKET}/")
    assert same(load_dit(SMALL, NoDownloads(BUCKET, prefix, Connection(s3_server.spec))), state("dit"))


def test_a_model_that_is_not_in_the_hub_cache_is_named_with_the_command_that_brings_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        MissingObjectError,
        match=r"hf://genmo/mochi-1-preview is not in the hub cache \S+; to get it: hf download genmo/mochi-1-preview$",
    ):
        open_source("hf://genmo/mochi-1-preview", S3Spec(), tmp_path)
    with pytest.raises(MissingObjectError, match=r"hf download owner/model --revision v2$"):
        open_source("hf://owner/model@v2", S3Spec(), tmp_path)


def test_a_hub_cache_without_a_part_says_how_to_get_it(published: Path, tmp_path: Path) -> None:
    (published / "encoder.safetensors").unlink()
    hub_cache(published, tmp_path / "hub")
    source = open_source("hf://owner/model", S3Spec(), tmp_path / "hub")
    assert same(load_dit(SMALL, source), state("dit"))
    with pytest.raises(
        MissingObjectError, match=r"encoder.safetensors does not exist.*hf download owner/model$"
    ):
        load_encoder(SMALL, source)


def test_a_hub_cache_with_several_models_must_be_told_which(published: Path, tmp_path: Path) -> None:
    for name in ("owner/model", "google/t5"):
        hub_cache(published, tmp_path / "hub", name)
    with pytest.raises(
        InvalidInputError, match=r"several models, .*: models--google--t5, models--owner--model"
    ):
        load_dit(SMALL, tmp_path / "hub")


@pytest.mark.parametrize(
    "address", ["https://host/model", "hf://model", "hf://a/b/c", "file://relative", "s3://"]
)
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="an address must"):
        open_source(address, S3Spec())


def alter(path: Path) -> None:
    """Change one number in the middle to another that is as good."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _sums(folder: Path) -> Path:
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.safetensors"))]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def _hub(folder: Path) -> Path:
    return hub_cache(folder, folder.parent / "hub") / "snapshots" / COMMIT


GIVEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "sums": (_sums, r"SHA256SUMS says [0-9a-f]{16}"),
    "hub": (_hub, "the hub cache says"),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_an_altered_file_is_named_where_its_source_gives_a_checksum(
    published: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    prepare, message = GIVEN[kind]
    folder = prepare(published)
    with caplog.at_level(logging.INFO):
        assert same(load_dit(SMALL, folder), state("dit"))
    assert "checksum: 1 of 1 files compared" in caplog.text
    alter((folder / "dit.safetensors").resolve())
    with pytest.raises(WeightsError, match=rf"dit.safetensors was altered or damaged: .*{message}"):
        load_dit(SMALL, folder)
    assert same(load_encoder(SMALL, folder), state("encoder"))


def test_a_shared_blob_of_the_hub_cache_is_checked_by_the_name_of_the_first_link(published: Path) -> None:
    """Newer caches keep large files once, under another hash, behind a second link."""
    snapshot = _hub(published)
    blob = (snapshot / "dit.safetensors").resolve()
    shared = published.parent / "hub/blobs/ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert same(load_dit(SMALL, snapshot), state("dit"))
    alter(shared)
    with pytest.raises(WeightsError, match=r"dit.safetensors was altered or damaged"):
        load_dit(SMALL, snapshot)


def test_an_altered_object_is_named_by_the_md5_in_its_etag(published: Path, s3_server: Server) -> None:
    address = in_s3(published, s3_server)
    store = open_store(address, s3_server.spec)
    digest = store.digest("dit.safetensors")
    assert digest is not None
    assert digest.hexadecimal == hashlib.md5((published / "dit.safetensors").read_bytes()).hexdigest()
    assert store.digest("absent") is None
    assert same(load_dit(SMALL, store), state("dit"))
    alter(s3_server.folder / address.removeprefix(f"s3://{BUCKET}/") / "dit.safetensors")
    with pytest.raises(
        WeightsError, match=r"dit.safetensors was altered or damaged: .*the ETag of the object says"
    ):
        load_dit(SMALL, store)


def test_the_sha256_of_an_object_comes_before_its_etag(published: Path, s3_server: Server) -> None:
    address = in_s3(published, s3_server)
    client = boto3.client("s3", endpoint_url=s3_server.spec.endpoint, region_name=s3_server.spec.region)
    key = f"{address.removeprefix(f's3://{BUCKET}/')}/dit.safetensors"
    data = (published / "dit.safetensors").read_bytes()
    client.put_object(Bucket=BUCKET, Key=key, Body=data, ChecksumAlgorithm="SHA256")
    client.close()
    digest = open_store(address, s3_server.spec).digest("dit.safetensors")
    assert digest is not None
    assert (digest.algorithm, digest.hexadecimal) == ("sha256", hashlib.sha256(data).hexdigest())


def test_sums_beside_a_shard_or_in_the_models_folder_are_found(published: Path) -> None:
    files = write_shards(state("encoder"), published / "encoder", 2)
    (published / "encoder.safetensors").unlink()
    _sums(published)
    assert same(load_encoder(SMALL, published), state("encoder"))
    alter(files[1])
    with pytest.raises(WeightsError, match=r"encoder-00002-of-00002.safetensors was altered"):
        load_encoder(SMALL, published)


def test_sums_that_are_none_are_refused(published: Path) -> None:
    (published / "SHA256SUMS").write_text("\nnothing of the kind\n")
    with pytest.raises(WeightsError, match=r"line 2 of \S+SHA256SUMS is not a sha256 and a file's name"):
        load_dit(SMALL, published)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_with_its_tensor(published: Path, number: float) -> None:
    tensors = load_file(published / "dit.safetensors")
    tensors["blocks.1.mlp_x.w1.weight"][3, 4] = number
    save_file(tensors, published / "dit.safetensors")
    with pytest.raises(
        WeightsError, match=r"blocks.1.mlp_x.w1.weight in \S+dit.safetensors has a number that is not"
    ):
        load_dit(SMALL, published)


def test_a_number_that_is_too_large_for_the_type_is_refused(published: Path) -> None:
    tensors = load_file(published / "decoder.safetensors")
    tensors["output_proj.bias"][0] = 1e6
    save_file(tensors, published / "decoder.safetensors")
    load_decoder(SMALL, published, dtype=torch.bfloat16)
    with pytest.raises(
        WeightsError, match=r"output_proj.bias in \S+ has a number that is not finite in float16"
    ):
        load_decoder(SMALL, published, dtype=torch.float16)


def test_a_file_that_loses_its_end_while_it_is_read_is_refused(published: Path) -> None:
    with pytest.raises(WeightsError, match=r"dit.safetensors is truncated: it ends at byte \d+"):
        load_dit(SMALL, ShrinkingStore(published))


class ReplacedStore(LocalStore):
    """A folder whose files are written anew while they are read."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        if length > 100_000:
            super().write_bytes(key, super().read_bytes(key))
        return data


def test_a_file_that_is_replaced_while_it_is_read_is_refused(published: Path) -> None:
    with pytest.raises(WeightsError, match=r"dit.safetensors changed while it was read"):
        load_dit(SMALL, ReplacedStore(published))


class BreakingStore(LocalStore):
    """A folder of which every second read breaks off."""

    reads = 0

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.reads += 1
        if self.reads % 2:
            raise StorageError(f"{self.address(key)}: connection broken")
        return super().read_range(key, start, length)


class DeadStore(LocalStore):
    """A folder of which no large read succeeds."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length > 100_000:
            raise StorageError(f"{self.address(key)}: connection broken")
        return super().read_range(key, start, length)


def test_a_read_that_breaks_off_is_tried_once_more(published: Path) -> None:
    write_shards(state("encoder"), published / "encoder", 1)
    (published / "encoder.safetensors").unlink()
    assert same(load_encoder(SMALL, BreakingStore(published)), state("encoder"))
    with pytest.raises(StorageError, match="connection broken"):
        load_encoder(SMALL, DeadStore(published))


def test_every_byte_is_read_once_and_neighbours_together(published: Path) -> None:
    store = CountingStore(published)
    load_dit(SMALL, store)
    size = (published / "dit.safetensors").stat().st_size
    assert store.total == size
    assert len(store.ranges) == 3
    assert len(state("dit")) > 60


def test_half_an_autoencoder_is_read_alone(published: Path, tmp_path: Path) -> None:
    """The header is read, but no number of the other half."""
    store = CountingStore(save_diffusers(tmp_path / "diffusers"))
    load_encoder(SMALL, store)
    numbers = sum(tensor.numel() for tensor in state("encoder").values())
    assert 4 * numbers < store.total < 4 * numbers + 100_000


@pytest.fixture
def text(tmp_path: Path) -> dict[str, Path]:
    """T5 of nano under the published name and under those of Diffusers."""
    published, diffusers = tmp_path / "text-published", tmp_path / "text-diffusers"
    shutil.copytree(NANO_FOLDER / "t5", published / "t5")
    shutil.copytree(NANO_FOLDER / "t5", diffusers / "text_encoder")
    (diffusers / "tokenizer").mkdir()
    (diffusers / "tokenizer" / "note.txt").write_text("bytes need no vocabulary")
    return {"published": published, "diffusers": diffusers}


@pytest.mark.parametrize("layout", ["published", "diffusers"])
@pytest.mark.parametrize("where", ["folder", "hub", "s3"])
def test_t5_comes_from_every_source_in_both_layouts(
    text: dict[str, Path], layout: str, where: str, tmp_path: Path, s3_server: Server
) -> None:
    files = text[layout]
    source = {
        "folder": lambda: files,
        "hub": lambda: hub_cache(files, tmp_path / "hub"),
        "s3": lambda: open_source(in_s3(files, s3_server), s3_server.spec),
    }[where]()
    ours, packaged = (load_text_encoder("nano", place).encode(["a caption"])[0] for place in (source, None))
    assert torch.equal(ours.features, packaged.features)
    assert identity("nano", source, ["t5"]).startswith("nano-")


def test_t5_in_a_smaller_type_only_is_found(text: dict[str, Path]) -> None:
    folder = text["diffusers"] / "text_encoder"
    (folder / "model.safetensors").rename(folder / "model.bf16.safetensors")
    assert load_text_encoder("nano", text["diffusers"]).width == 64


def test_a_truncated_t5_is_named(text: dict[str, Path]) -> None:
    path = text["published"] / "t5/model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"t5/model.safetensors is truncated"):
        load_text_encoder("nano", text["published"])


class HugeStore(LocalStore):
    """A folder that says its files are too large for any disk."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (info._replace(size=1 << 60) for info in super().list(prefix))

    def get(self, key: str, to: Path) -> None:
        raise AssertionError(f"{key} must not be copied to {to}")


def test_a_t5_that_cannot_fit_is_refused_before_the_download(text: dict[str, Path]) -> None:
    with pytest.raises(DiskFullError, match=r"t5 at file://\S+ needs \d+\.0 GiB, \S+ has \d+\.\d GiB free"):
        load_text_encoder("nano", HugeStore(text["published"]))


def test_a_t5_without_weights_or_tokenizer_is_told(text: dict[str, Path]) -> None:
    vocabulary = dataclasses.replace(preset_named("nano"), byte_tokens=False)
    with pytest.raises(WeightsError, match=r"t5's tokenizer in \S+/tokenizer cannot be loaded: "):
        load_text_encoder(vocabulary, text["diffusers"])
    (text["published"] / "t5/model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"t5 in \S+/t5 cannot be loaded: "):
        load_text_encoder("nano", text["published"])


def test_an_altered_t5_is_named(text: dict[str, Path], s3_server: Server) -> None:
    path = text["published"] / "t5/model.safetensors"
    (text["published"] / "SHA256SUMS").write_text(f"{sha256(path)} *./t5/model.safetensors\n")
    alter(path)
    with pytest.raises(WeightsError, match=r"t5/model.safetensors was altered or damaged"):
        load_text_encoder("nano", text["published"])
    with pytest.raises(WeightsError, match=r"t5/model.safetensors was altered or damaged"):
        load_text_encoder("nano", open_source(in_s3(text["published"], s3_server), s3_server.spec))


def test_progress_is_told_in_bytes_and_tensors(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_dit(SMALL, published)
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith("progress")]
    assert line.startswith(f"loaded dit: {len(state('dit'))} tensors, ")
    assert line.endswith("checksum: 0 of 1 files compared")
