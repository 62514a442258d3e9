"""Every example is what the API server would accept, says no more than it must, and is shown by the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from mochi_api import identity, rules
from mochi_api.spec import FineTuneSpec
from mochi_codegen import schema

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))


def read(path: Path) -> dict[str, object]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


def test_there_are_the_four_examples() -> None:
    assert [path.name for path in EXAMPLES] == [
        "full-mochi-1.yaml", "full-nano.yaml", "lora-mochi-1.yaml", "lora-nano.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
class TestExample:
    def test_is_of_this_api(self, path: Path) -> None:
        document = read(path)
        assert (document["apiVersion"], document["kind"]) == (identity.API_VERSION, identity.KIND)
        name = document["metadata"]["name"]  # type: ignore[index]
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= rules.NAME_LIMIT

    def test_parses_and_obeys_every_rule(self, path: Path) -> None:
        assert rules.violations(FineTuneSpec.model_validate(read(path)["spec"])) == []

    def test_fits_the_schema_of_the_crd(self, path: Path) -> None:
        errors = Draft202012Validator(schema.spec_schema()).iter_errors(read(path)["spec"])
        assert [error.message for error in errors] == []

    def test_opens_with_a_comment_that_says_what_it_is(self, path: Path) -> None:
        assert path.read_text().startswith("# ")

    def test_has_mode_and_preset_of_its_name(self, path: Path) -> None:
        spec = FineTuneSpec.model_validate(read(path)["spec"])
        assert f"{spec.mode}-{spec.model.preset}" == path.stem


def test_the_nano_examples_share_their_embeddings() -> None:
    specs = [FineTuneSpec.model_validate(read(path)["spec"]) for path in EXAMPLES if "nano" in path.name]
    assert len({(spec.preprocessing.to_wire().__repr__(), spec.storage.output_uri) for spec in specs}) == 1


def test_the_yaml_of_the_tutorial_is_a_valid_spec(project: Path) -> None:
    text = (project / "docs/tutorial/first-lora.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    assert rules.violations(FineTuneSpec.model_validate(yaml.safe_load(blocks[0])["spec"])) == []
