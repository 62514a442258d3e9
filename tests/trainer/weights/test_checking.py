"""The names and shapes of T5 that are compared with its files are those of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from mochi_trainer.errors import MissingObjectError
from mochi_trainer.presets import preset_named
from mochi_trainer.presets.catalogue import NANO_FOLDER
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.weights import WeightsError, check_headers
from mochi_trainer.weights.checking import TextSize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of which only T5 is there."""
    shutil.copytree(NANO_FOLDER / "t5", tmp_path / "t5")
    return tmp_path


@pytest.mark.parametrize("projection", ["relu", "gated-gelu"])
def test_the_expected_tensors_are_those_of_transformers(projection: str) -> None:
    sizes = {"d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 3, "num_heads": 4}
    with torch.device("meta"):
        model = T5EncoderModel(T5Config(feed_forward_proj=projection, **sizes))
    real = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    embeddings = {"shared.weight", "encoder.embed_tokens.weight"}
    assert TextSize(feed_forward_proj=projection, **sizes).shapes() == {
        name: shape for name, shape in real.items() if name not in embeddings
    }


def test_the_defaults_are_those_of_transformers() -> None:
    config = T5Config()
    assert TextSize() == TextSize(**{name: getattr(config, name) for name in TextSize._fields})


def test_a_configuration_that_is_none_is_named(folder: Path) -> None:
    for text in ("{", "[]", json.dumps({"d_model": {}})):
        (folder / "t5" / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=r"t5/config\.json is (no configuration of T5|a T5 of width)"):
            check_headers(LocalStore(folder), "t5", preset_named("nano"))


def test_weights_and_tokenizer_that_are_not_there_are_named(folder: Path) -> None:
    (folder / "t5" / "model.safetensors").unlink()
    with pytest.raises(MissingObjectError, match=r"no weights of t5 in file://.*/t5/: model\.safetensors"):
        check_headers(LocalStore(folder), "t5", preset_named("nano"))
    config = json.loads((folder / "t5" / "config.json").read_text())
    (folder / "t5" / "config.json").write_text(json.dumps({**config, "d_model": 4096}))
    with pytest.raises(MissingObjectError, match=r"neither tokenizer\.json nor spiece\.model is there"):
        check_headers(LocalStore(folder), "t5", preset_named("mochi-1"))


def test_a_pickle_is_left_to_transformers(folder: Path) -> None:
    (folder / "t5" / "model.safetensors").rename(folder / "t5" / "pytorch_model.bin")
    assert check_headers(LocalStore(folder), "t5", preset_named("nano")) == 0


def test_an_index_that_names_an_absent_file_is_found(folder: Path) -> None:
    (folder / "t5" / "model.safetensors").unlink()
    places = {"shared.weight": "model-00001-of-00002.safetensors"}
    index = folder / "t5" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(MissingObjectError, match=r"model-00001-of-00002\.safetensors does not exist"):
        check_headers(LocalStore(folder), "t5", preset_named("nano"))
