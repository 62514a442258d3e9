"""Every manifest the operator makes, whole, and the laws they obey."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mochi_api import resolved
from mochi_api.runfile import STAGES, parse
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Resolved
from mochi_operator import names
from mochi_operator.backend.pytorchjob import PyTorchJobBackend
from mochi_operator.build.config import config_map
from mochi_operator.build.job import stage_job
from mochi_operator.build.order import Order
from mochi_operator.snapshot import Run
from tests.operator.world import IMAGE, full, lora

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = {
    "mode": "full",
    "model": {"source": {"pvc": {"claimName": "weights", "path": "/mochi-1"}}},
    "dataset": {"source": {"pvc": {"claimName": "clips"}}},
    "storage": {
        "outputURI": "s3://runs/dissolve/",
        "cacheURI": "s3://shared/",
        "s3": {"endpoint": "https://minio.example:9000", "pathStyle": True, "credentialsSecretName": "s3"},
    },
    "workers": {
        "resources": {"cpu": "8", "memory": "64Gi", "ephemeralStorage": "100Gi"},
        "podTemplate": {
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "high",
            "serviceAccountName": "trainer",
            "imagePullSecrets": ["pull"],
        },
    },
}
SPECS = {"lora-nano": lora(), "full-nano": full(), "full-published": PUBLISHED}
CASES = [(name, stage) for name in SPECS for stage in STAGES]
NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,43}[a-z0-9])?", fullmatch=True)


def order(spec: dict, stage: str, *, name: str = "dissolve", attempt: int = 1) -> Order:
    parsed = FineTuneSpec.model_validate(spec)
    training = resolved.training(parsed)
    return Order(
        run=Run(
            namespace="videos", name=name, uid="4f2c", generation=1, resource_version="1",
            created=datetime(2026, 1, 1, tzinfo=UTC),
        ),
        spec=parsed,
        resolved=Resolved(
            replicas=resolved.replicas(parsed), gpus_per_pod=resolved.gpus(parsed).training, image=IMAGE,
            warmup_steps=training.warmup_steps, global_batch_size=training.global_batch_size,
        ),
        stage=stage,
        attempt=attempt,
    )  # fmt: skip


def manifests(made: Order) -> list[dict]:
    child = PyTorchJobBackend().build(made) if made.stage == "train" else stage_job(made)
    return [config_map(made), child]


class Dumper(yaml.SafeDumper):
    """Multi-line texts as blocks, so that a difference can be read."""


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def template(manifest: dict) -> dict:
    spec = manifest["spec"]
    return spec["template"] if "template" in spec else spec["pytorchReplicaSpecs"]["Worker"]["template"]


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_manifests_are_the_golden_ones(name, stage, update_golden):
    path = GOLDEN / f"{name}-{stage}.yaml"
    text = yaml.dump_all(manifests(order(SPECS[name], stage)), Dumper=Dumper, sort_keys=False, width=110)
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), (
        "`make golden` rewrites the goldens; read the difference before you commit it"
    )


def test_every_golden_has_a_case():
    assert {path.stem for path in GOLDEN.iterdir()} == {f"{name}-{stage}" for name, stage in CASES}


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_the_run_file_is_readable_and_holds_no_secret(name, stage):
    text = config_map(order(SPECS[name], stage))["data"]["run.yaml"]
    assert parse(text).stage == stage
    assert "AWS_SECRET" not in text


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_no_mapping_is_shared_between_two_places(name, stage):
    seen: dict[int, object] = {}

    def walk(value: object) -> None:
        if not isinstance(value, (dict, list)):
            return
        assert id(value) not in seen, f"shared: {value}"
        seen[id(value)] = value
        for part in value.values() if isinstance(value, dict) else value:
            walk(part)

    made = order(SPECS[name], stage)
    both = [*manifests(made), *manifests(made)]
    walk(both)


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_pods_pass_pod_security_restricted(name, stage):
    pod = template(manifests(order(SPECS[name], stage))[1])["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_every_mount_has_its_volume_and_no_name_occurs_twice(name, stage):
    pod = template(manifests(order(SPECS[name], stage))[1])["spec"]
    container = pod["containers"][0]
    volumes, mounts = (
        [item["name"] for item in pod["volumes"]],
        [item["name"] for item in container["volumeMounts"]],
    )
    env = [item["name"] for item in container["env"]]
    assert sorted(volumes) == sorted(mounts)
    assert len(set(volumes)) == len(volumes)
    assert len(set(env)) == len(env)


def test_gpu_products_matter_only_where_there_are_gpus():
    assert "affinity" in template(manifests(order(PUBLISHED, "train"))[1])["spec"]
    assert "affinity" not in template(manifests(order(PUBLISHED, "trim"))[1])["spec"]
    assert "affinity" not in template(manifests(order(lora(), "train"))[1])["spec"]


@given(NAMES, st.integers(1, 101))
def test_names_are_valid_and_bounded(name, attempt):
    assert names.problem(name) is None
    job = names.attempt_job(name, attempt)
    derived = [names.stage_job(name, stage) for stage in STAGES] + [job, f"{job}-worker-63"]
    for child in [*derived, *(names.run_config(child) for child in derived)]:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child)
    assert max(map(len, derived)) <= 63


@given(NAMES, NAMES, st.integers(1, 101), st.integers(1, 101))
def test_children_of_two_runs_never_share_a_name(one, other, first, second):
    def children(name: str, attempt: int) -> dict[str, set[str]]:
        jobs = {names.stage_job(name, stage) for stage in STAGES if stage != "train"}
        attempts = {names.attempt_job(name, attempt)}
        return {
            "jobs": jobs,
            "attempts": attempts,
            "configs": {names.run_config(job) for job in jobs | attempts},
        }

    if one != other:
        mine, others = children(one, first), children(other, second)
        assert all(not mine[kind] & others[kind] for kind in mine)


@given(NAMES, st.integers(1, 101))
def test_the_rendezvous_port_is_in_its_range_and_stays_the_same(name, attempt):
    job = names.attempt_job(name, attempt)
    assert 20_000 <= names.master_port("videos", job) < 30_000
    assert names.master_port("videos", job) == names.master_port("videos", job)


@pytest.mark.parametrize("name", ["a" * 46, "1st", "a.b", "Dissolve", "a-", ""])
def test_other_names_are_refused_with_the_name(name):
    problem = names.problem(name)
    assert problem is not None
    assert problem.startswith("metadata.name must")
