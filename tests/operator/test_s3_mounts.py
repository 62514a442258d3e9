"""Keys and certificates of S3 in pods: as variables for every image, as files that are renewed."""

import dataclasses

import pytest
import yaml

from mochi_operator.settings import SettingsError, from_environment
from tests.operator.test_manifests import SPECS, manifests, recipe, template
from tests.operator.world import World, lora

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def made(s3: dict, stage: str = "trim", *, ca: str = "") -> tuple[dict, dict]:
    """Run file's ConfigMap and pod of a run with this `storage.s3`."""
    spec = lora()
    spec["storage"]["s3"] = s3
    config, child = manifests(dataclasses.replace(recipe(spec, stage), ca_bundle=ca))
    return config, template(child)["spec"]


def variables(pod: dict) -> dict[str, object]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in pod["containers"][0]["env"]}


def mounted(pod: dict, path: str) -> dict:
    """The volume that is mounted at `path`."""
    mount = next(item for item in pod["containers"][0]["volumeMounts"] if item["mountPath"] == path)
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # it would never be renewed
    return next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])


@pytest.mark.parametrize("stage", ["check", "trim", "train", "sample"])
def test_keys_are_files_that_are_renewed_and_variables_for_images_that_know_no_files(stage):
    _, pod = made({"credentialsSecretName": "keys"}, stage)
    found = variables(pod)
    assert found["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "keys", "key": "AWS_ACCESS_KEY_ID"}}
    secret = mounted(pod, found["MOCHI_S3_CREDENTIALS"])["secret"]
    assert secret["secretName"] == "keys"
    assert secret["optional"] is True  # a Secret that is missing is told of by the variables, as before
    assert [item["key"] for item in secret["items"]] == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ]


def test_a_pod_with_an_identity_of_its_own_gets_no_keys():
    _, pod = made({})
    assert not {"MOCHI_S3_CREDENTIALS", "AWS_ACCESS_KEY_ID", "AWS_CA_BUNDLE"} & set(variables(pod))
    assert {volume["name"] for volume in pod["volumes"]} == {"run", "tmp", "shm"}


@pytest.mark.parametrize(
    ("named", "volume"),
    [
        (
            {"configMapName": "ca", "key": "company.pem"},
            {
                "configMap": {
                    "name": "ca",
                    "items": [{"key": "company.pem", "path": "ca.crt"}],
                    "optional": True,
                }
            },
        ),
        (
            {"secretName": "tls"},
            {
                "secret": {
                    "secretName": "tls",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    "optional": True,
                }
            },
        ),
    ],
)
def test_certificates_that_the_run_names_are_a_file_that_boto3_of_any_image_finds(named, volume):
    config, pod = made({"endpoint": "https://s3.example", "caBundle": named}, ca=PEM)
    folder, _, name = variables(pod)["AWS_CA_BUNDLE"].rpartition("/")
    assert name == "ca.crt"
    assert mounted(pod, folder) == {"name": "s3-ca", **volume}
    assert set(config["data"]) == {"run.yaml", "defaults"}
    assert (
        "caBundle" not in yaml.safe_load(config["data"]["run.yaml"])["s3"]
    )  # an older image would refuse it


def test_certificates_of_the_chart_come_with_the_run_file():
    config, pod = made({"endpoint": "https://s3.example"}, ca=PEM)
    folder, _, name = variables(pod)["AWS_CA_BUNDLE"].rpartition("/")
    assert mounted(pod, folder)["configMap"]["name"] == config["metadata"]["name"]
    assert config["data"][name] == PEM


@pytest.mark.parametrize("endpoint", ["", "http://minio:9000"])
def test_certificates_of_the_chart_are_for_endpoints_with_tls(endpoint):
    """For AWS an older image would trust nobody else."""
    config, pod = made({"endpoint": endpoint} if endpoint else {}, ca=PEM)
    assert "AWS_CA_BUNDLE" not in variables(pod)
    assert set(config["data"]) == {"run.yaml", "defaults"}


async def test_the_operator_hands_on_the_certificates_of_its_settings():
    spec = lora()
    spec["storage"]["s3"] = {"endpoint": "https://s3.example"}
    world = World(spec)
    world.settings = dataclasses.replace(world.settings, ca_bundle=PEM)
    world.restart()
    await world.until(lambda w: w.phase == "Succeeded")
    found = world.cluster.all("ConfigMap")
    assert found
    assert all(item["data"]["ca.crt"] == PEM for item in found)


def test_settings_without_a_certificate_are_refused_at_the_start():
    with pytest.raises(SettingsError, match="MOCHI_CA_BUNDLE must hold certificates in PEM"):
        from_environment({"MOCHI_TRAINER_IMAGE": "trainer:1", "MOCHI_CA_BUNDLE": "company CA"})
    assert from_environment({"MOCHI_TRAINER_IMAGE": "trainer:1", "MOCHI_CA_BUNDLE": PEM}).ca_bundle == PEM


def test_the_golden_run_has_both():
    pod = template(manifests(recipe(SPECS["full-published"], "train"))[1])["spec"]
    assert {"MOCHI_S3_CREDENTIALS", "AWS_CA_BUNDLE"} <= set(variables(pod))
