"""Every manifest the operator makes, whole, and the laws they obey."""

import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mochi_api import identity, resolved
from mochi_api.rules import name_problem
from mochi_api.runfile import World, parse
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Resolved
from mochi_operator import names
from mochi_operator.backend.pytorchjob import PyTorchJobBackend
from mochi_operator.build.config import config_map
from mochi_operator.build.job import step_job
from mochi_operator.build.recipe import Recipe
from mochi_operator.snapshot import Run
from mochi_operator.state import STEPS
from tests.operator.world import IMAGE, full, lora

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = {
    "mode": "full",
    "model": {"source": {"pvc": {"claimName": "weights", "path": "/mochi-1"}}},
    "dataset": {"source": {"pvc": {"claimName": "clips"}}},
    "storage": {
        "outputURI": "s3://runs/dissolve/",
        "cacheURI": "s3://shared/",
        "s3": {
            "endpoint": "https://minio.example:9000",
            "pathStyle": True,
            "credentialsSecretName": "s3",
            "caBundle": {"configMapName": "company-ca"},
        },
    },
    "workers": {
        "resources": {"cpu": "8", "memory": "64Gi", "ephemeralStorage": "100Gi"},
        "podTemplate": {
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "high",
            "serviceAccountName": "trainer",
            "imagePullSecrets": ["pull"],
            "labels": {"team": "films", "mochi.finetune.dev/stage": "mine"},
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
    },
}
SPECS = {"lora-nano": lora(), "full-nano": full(), "full-published": PUBLISHED}
CASES = [(name, stage) for name in SPECS for stage in STEPS]
NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,43}[a-z0-9])?", fullmatch=True)


def recipe(spec: dict, stage: str, *, name: str = "dissolve", attempt: int = 1) -> Recipe:
    parsed = FineTuneSpec.model_validate(spec)
    training = resolved.training(parsed)
    return Recipe(
        run=Run(
            namespace="videos", name=name, uid="4f2c", generation=1, resource_version="1",
            created=datetime(2026, 1, 1, tzinfo=UTC),
        ),
        spec=parsed,
        resolved=Resolved(
            replicas=resolved.replicas(parsed), gpus_per_pod=resolved.gpus(parsed).training, image=IMAGE,
            warmup_steps=training.warmup_steps, global_batch_size=training.global_batch_size,
        ),
        step=stage,
        attempt=attempt,
    )  # fmt: skip


def manifests(made: Recipe) -> list[dict]:
    child = PyTorchJobBackend().build(made) if made.step == "train" else step_job(made)
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
    text = yaml.dump_all(manifests(recipe(SPECS[name], stage)), Dumper=Dumper, sort_keys=False, width=110)
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), (
        "`make golden` rewrites the goldens; read the difference before you commit it"
    )


def test_every_golden_has_a_case():
    assert {path.stem for path in GOLDEN.iterdir()} == {f"{name}-{stage}" for name, stage in CASES}


def test_one_pod_of_eight_gpus_is_one_replica_that_asks_for_them_and_nothing_else_of_eight_pods_changes():
    wide, tall = (
        manifests(recipe({**PUBLISHED, "workers": {**PUBLISHED["workers"], **workers}}, "train"))
        for workers in ({"gpusPerPod": 8}, {"replicas": 8})
    )
    assert parse(wide[0]["data"]["run.yaml"]).world == World(replicas=1, gpus_per_pod=8)
    assert parse(wide[0]["data"]["run.yaml"]).training == parse(tall[0]["data"]["run.yaml"]).training
    worker, other = (made[1]["spec"]["pytorchReplicaSpecs"]["Worker"] for made in (wide, tall))
    assert (worker["replicas"], other["replicas"]) == (1, 8)
    (one,), (eight,) = (each["template"]["spec"]["containers"] for each in (worker, other))
    assert one["resources"]["limits"].pop("nvidia.com/gpu") == "8"
    assert eight["resources"]["limits"].pop("nvidia.com/gpu") == "1"
    changed = {each["name"] for each in one["env"] if each not in eight["env"]}
    assert changed == {"WORLD_SIZE"}
    one["env"] = eight["env"]
    assert worker["template"] == other["template"]


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_the_run_file_is_readable_and_holds_no_secret(name, stage):
    text = config_map(recipe(SPECS[name], stage))["data"]["run.yaml"]
    assert parse(text).stage == stage
    assert "AWS_SECRET" not in text


@pytest.mark.parametrize("path", ["/my%20clips", "/100%", "/a b", "/%2e%2e", "/", "/a/"])
def test_a_folder_of_a_volume_may_have_any_name(path):
    claim = {"pvc": {"claimName": "clips", "path": path}}
    made = recipe({**PUBLISHED, "dataset": {"source": claim}, "model": {"source": claim}}, "train")
    text = manifests(made)[0]["data"]["run.yaml"]
    locations = parse(text, strict=False, defaults=1).locations
    for address, mount in ((locations.dataset, "dataset"), (locations.model, "model")):
        assert unquote(address) == f"file:///mnt/mochi/{mount}{path}".rstrip("/")


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

    made = recipe(SPECS[name], stage)
    both = [*manifests(made), *manifests(made)]
    walk(both)


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_pods_pass_pod_security_restricted(name, stage):
    pod = template(manifests(recipe(SPECS[name], stage))[1])["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_every_mount_has_its_volume_and_no_name_occurs_twice(name, stage):
    pod = template(manifests(recipe(SPECS[name], stage))[1])["spec"]
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
    assert "affinity" in template(manifests(recipe(PUBLISHED, "train"))[1])["spec"]
    assert "affinity" not in template(manifests(recipe(PUBLISHED, "trim"))[1])["spec"]
    assert "affinity" not in template(manifests(recipe(lora(), "train"))[1])["spec"]


@given(NAMES, st.integers(1, 101))
def test_names_are_valid_and_bounded(name, attempt):
    assert name_problem(name) is None
    children = [names.child(name, step, attempt) for step in STEPS]
    derived = [*children, f"{names.child(name, 'train', attempt)}-worker-63"]
    for child in [*derived, *(names.run_config(child) for child in derived)]:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child)
    assert max(map(len, derived)) <= 63


@given(NAMES, NAMES, st.integers(1, 101), st.integers(1, 101))
def test_children_of_two_runs_never_share_a_name(one, other, first, second):
    def children(name: str, attempt: int) -> dict[str, set[str]]:
        jobs = {names.child(name, step, attempt) for step in STEPS if step != "train"}
        trainings = {names.child(name, "train", attempt)}
        return {
            "jobs": jobs,
            "trainings": trainings,
            "configs": {names.run_config(job) for job in jobs | trainings},
        }

    if one != other:
        mine, others = children(one, first), children(other, second)
        assert all(not mine[kind] & others[kind] for kind in mine)


@given(NAMES, st.sampled_from(STEPS), st.integers(1, 101), st.sampled_from(STEPS), st.integers(1, 101))
def test_children_of_one_run_never_share_a_name(name, step, attempt, other, second):
    same = (step, attempt) == (other, second)
    assert (names.child(name, step, attempt) == names.child(name, other, second)) is same


@pytest.mark.parametrize(
    ("step", "attempt", "child"),
    [
        ("trim", 1, "dissolve-trim"),
        ("trim", 2, "dissolve-trim-2"),
        ("train", 1, "dissolve-a1"),
        ("train", 2, "dissolve-a2"),
    ],
)
def test_an_earlier_version_finds_its_first_attempts_under_the_names_it_gave_them(step, attempt, child):
    assert names.child("dissolve", step, attempt) == child


@given(NAMES, st.integers(1, 101))
def test_the_rendezvous_port_is_in_its_range(name, attempt):
    assert 20_000 <= names.master_port("videos", names.child(name, "train", attempt)) < 30_000


def test_the_rendezvous_port_is_the_same_in_every_process():
    assert names.master_port("videos", "dissolve-a1") == 21_333
    assert names.master_port("videos", "dissolve-a2") == 20_405


@pytest.mark.parametrize("name", ["a" * 46, "1st", "a.b", "Dissolve", "a-", ""])
def test_other_names_are_refused_with_the_name(name):
    problem = name_problem(name)
    assert problem is not None
    assert problem.startswith("metadata.name must")


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_a_job_has_one_try_and_no_deadline_of_its_own(name, stage):
    spec = manifests(recipe(SPECS[name], stage))[1]["spec"]
    if stage == "train":
        assert set(spec["runPolicy"]) == {"cleanPodPolicy"}, "attempts and deadlines are the operator's"
    else:
        assert (spec["backoffLimit"], set(spec)) == (0, {"backoffLimit", "template"})


@pytest.mark.parametrize("stage", STEPS)
def test_pods_carry_the_annotations_that_switch_injection_off_and_keep_our_labels(stage):
    metadata = template(manifests(recipe(PUBLISHED, stage))[1])["metadata"]
    assert metadata["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert (metadata["labels"]["team"], metadata["labels"]["mochi.finetune.dev/stage"]) == ("films", stage)


@pytest.mark.parametrize("stage", STEPS)
def test_no_token_is_mounted_even_where_an_account_is_named(stage):
    spec = template(manifests(recipe(PUBLISHED, stage))[1])["spec"]
    assert spec["serviceAccountName"] == "trainer"
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("stage", STEPS)
def test_user_and_group_can_be_left_to_the_namespace(stage):
    free = lora(workers={"podTemplate": {"userFromNamespace": True}})
    context = template(manifests(recipe(free, stage))[1])["spec"]["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize("stage", STEPS)
def test_the_users_variables_are_in_every_pod_and_each_name_is_there_once(stage):
    secret = {"secretKeyRef": {"name": "wandb", "key": "key"}}
    asked = [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "EMPTY"},
        {"name": "WANDB_API_KEY", "valueFrom": secret},
    ]
    spec = {**PUBLISHED, "workers": {**PUBLISHED["workers"], "env": asked}}
    plain, ours = (
        template(manifests(recipe(each, stage))[1])["spec"]["containers"][0]["env"]
        for each in (PUBLISHED, spec)
    )
    names = [each["name"] for each in ours]
    assert len(set(names)) == len(names)
    assert [each for each in ours if each["name"] in {"NCCL_DEBUG", "EMPTY", "WANDB_API_KEY"}] == [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "EMPTY", "value": ""},
        {"name": "WANDB_API_KEY", "valueFrom": secret},
    ]
    assert [each for each in ours if each["name"] in identity.OWN_ENV] == [
        each for each in plain if each["name"] in identity.OWN_ENV
    ]


@pytest.mark.parametrize("stage", STEPS)
def test_what_a_pod_gets_from_us_is_no_name_of_the_users(stage):
    """But for what NCCL does by itself."""
    env = template(manifests(recipe(PUBLISHED, stage))[1])["spec"]["containers"][0]["env"]
    free = {each["name"] for each in env if each["name"] not in identity.OWN_ENV}
    assert {name for name in free if not name.startswith(identity.OWN_ENV_PREFIX)} == (
        {"NCCL_DEBUG", "TORCH_NCCL_ASYNC_ERROR_HANDLING"} if stage == "train" else set()
    )
