"""The run file: what the operator renders, the trainer reads."""

from __future__ import annotations

import pytest
import yaml

from mochi_api import resolved, runfile
from mochi_api.runfile import Identity, Locations, RunFile, World
from mochi_api.spec import FineTuneSpec
from tests.api.wrong_specs import spec


def run_file() -> RunFile:
    parsed = FineTuneSpec.model_validate(spec())
    return RunFile(
        stage="trim",
        run=Identity(namespace="ns", name="dissolve", uid="u-1"),
        mode=parsed.mode,
        model=parsed.model,
        dataset=parsed.dataset,
        preprocessing=parsed.preprocessing,
        training=resolved.training(parsed),
        sampling=parsed.sampling,
        s3=parsed.storage.s3,
        locations=Locations(
            dataset="s3://demo/clips/", cache="s3://demo/out/cache", run="s3://demo/out/runs/u-1"
        ),
        world=World(replicas=resolved.replicas(parsed), gpus_per_pod=resolved.gpus(parsed).training),
    )


def test_a_rendered_run_file_reads_back_as_the_same() -> None:
    assert runfile.parse(run_file().to_yaml()) == run_file()


def test_what_the_spec_leaves_open_is_decided_before_the_pod_starts() -> None:
    training = run_file().training
    assert (training.warmup_steps, training.global_batch_size) == (200, 1)
    assert training.lora is not None
    assert training.lora.rank == 16


def test_the_learning_rate_is_written_so_that_no_image_has_to_know_it() -> None:
    assert yaml.safe_load(run_file().to_yaml())["training"]["learningRate"] == "0.0002"


def test_a_wrong_field_is_named_with_its_value() -> None:
    text = run_file().to_yaml().replace("preprocessing: {}", "preprocessing: {frames: many}")
    with pytest.raises(runfile.RunFileError, match=r"preprocessing\.frames: .*got 'many'"):
        runfile.parse(text)


def test_a_text_of_another_shape_is_named_once_with_its_value() -> None:
    text = run_file().to_yaml().replace("uri: s3://demo/clips/", "uri: http://Demo")
    with pytest.raises(runfile.RunFileError) as refusal:
        runfile.parse(text)
    assert (
        str(refusal.value)
        == "dataset.source.s3.uri must be s3://bucket/prefix with 3 to 63 lower-case letters, digits, dots and hyphens in the bucket's name, got http://Demo"
    )


def test_an_unknown_field_of_a_file_given_by_hand_is_named() -> None:
    with pytest.raises(runfile.RunFileError, match="secret: there is no such field"):
        runfile.parse(run_file().to_yaml() + "secret: x\n")


def test_what_another_version_adds_around_the_users_wishes_is_ignored() -> None:
    text = run_file().to_yaml().replace("uid: u-1", "uid: u-1\n  cluster: east") + "secret: x\n"
    assert runfile.parse(text, strict=False) == run_file()


def test_a_wish_that_the_image_does_not_know_is_one_clear_refusal() -> None:
    text = run_file().to_yaml().replace("training:\n", "training:\n  distillation: '0.5'\n")
    message = r"the image of this run does not know spec\.training\.distillation: name an image in workers\.image that does"
    with pytest.raises(runfile.RunFileError, match=message):
        runfile.parse(text, strict=False)


def test_defaults_are_left_out() -> None:
    document = yaml.safe_load(run_file().to_yaml())
    assert document["schemaVersion"] == 1
    assert document["preprocessing"] == {}
    assert document["training"] == {
        "learningRate": "0.0002",
        "warmupSteps": 200,
        "globalBatchSize": 1,
        "lora": {},
    }


def test_what_is_not_yaml_is_refused() -> None:
    with pytest.raises(runfile.RunFileError, match="not YAML"):
        runfile.parse("a: [")


NO_YAML = {
    "nested too deeply": "[" * 100_000,
    "no date": "stage: 2026-13-45",
    "no boolean": "stage: !!bool x",
    "no time": "stage: !!timestamp x",
    "no number": "stage: !!int x",
    "code": "!!python/object/apply:os.system ['true']",
    "two documents": "a: 1\n---\na: 2\n",
    "a list for a key": "? [1]\n: 2\n",
}


@pytest.mark.parametrize("case", NO_YAML)
def test_whatever_cannot_be_read_as_yaml_is_refused(case: str) -> None:
    with pytest.raises(runfile.RunFileError, match="the run file is not YAML"):
        runfile.parse(NO_YAML[case])


ALIASES = "a0: &a0 [x, x]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)
)
ODD = {
    "aliases of aliases": ALIASES,
    "itself": "a: &a [*a]",
    "a number of 40,000 bits": f"mode: 0x{'f' * 10_000}",
}


@pytest.mark.parametrize("case", ODD)
def test_the_words_about_a_field_are_short_whatever_its_value_is(case: str) -> None:
    with pytest.raises(runfile.RunFileError) as caught:
        runfile.parse(ODD[case])
    assert len(str(caught.value)) < 3000
