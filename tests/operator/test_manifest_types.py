"""The golden manifests, read with the typed models of the `kubernetes` package, are what Kubernetes knows.

A field that does not exist, one in the wrong place or of the wrong type is refused by the model; one that a model reads
under another name does not come back as it was.
"""

import copy
from pathlib import Path

import pytest
import yaml
from kubernetes.aio.client import V1ConfigMap, V1Job, V1ObjectMeta, V1PodTemplateSpec
from pydantic import BaseModel, ValidationError

GOLDEN = Path(__file__).parent / "golden"


def parts(document: dict) -> list[tuple[type[BaseModel], dict]]:
    """The parts of a manifest whose types are Kubernetes' own."""
    match document["kind"]:
        case "ConfigMap":
            return [(V1ConfigMap, document)]
        case "Job":
            return [(V1Job, document)]
        case "PyTorchJob":
            replicas = document["spec"]["pytorchReplicaSpecs"].values()
            templates = [(V1PodTemplateSpec, replica["template"]) for replica in replicas]
            return [(V1ObjectMeta, document["metadata"]), *templates]
        case other:
            raise AssertionError(f"{other}: name its typed model here")


def through(model: type[BaseModel], manifest: dict) -> dict:
    """What the model makes of a manifest."""
    read = model.model_validate(copy.deepcopy(manifest))
    return read.model_dump(mode="json", by_alias=True, exclude_unset=True)


PARTS = [
    pytest.param(*part, id=f"{path.stem}-{document['kind']}-{part[0].__name__}")
    for path in sorted(GOLDEN.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    for part in parts(document)
]


def test_every_golden_file_has_typed_parts():
    checked = {param.id.rsplit("-", 2)[0] for param in PARTS}
    assert checked == {path.stem for path in GOLDEN.glob("*.yaml")}
    assert checked


@pytest.mark.parametrize(("model", "manifest"), PARTS)
def test_a_manifest_is_the_same_after_its_typed_model(model, manifest):
    assert through(model, manifest) == manifest


def job() -> dict:
    path = GOLDEN / "lora-nano-trim.yaml"
    return next(d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d["kind"] == "Job")


def misplaced(spec: dict) -> None:
    spec["restartPolicy"] = "Never"


def mistyped(spec: dict) -> None:
    spec["backoffLimit"] = "0"


def misspelt(spec: dict) -> None:
    spec["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"


@pytest.mark.parametrize("spoil", [misplaced, mistyped, misspelt])
def test_a_field_that_is_unknown_or_of_another_type_is_refused(spoil):
    spoilt = job()
    spoil(spoilt["spec"])
    with pytest.raises(ValidationError):
        through(V1Job, spoilt)


def test_a_field_in_pythons_spelling_does_not_pass():
    spoilt = job()
    spoilt["spec"]["backoff_limit"] = spoilt["spec"].pop("backoffLimit", 0)
    assert through(V1Job, spoilt) != spoilt
