"""What the images will hold, read from the Dockerfile and the locked requirements; `make images` builds them for real."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("${TRAINER}", "trainer")
"""As it is built when no argument says otherwise."""
IN_ROOT = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300, "check": False}
PACKAGES = {
    "operator": ("crds/mochi_api", "operator/mochi_operator"),
    "trainer": ("crds/mochi_api", "trainer_image/mochi_trainer"),
}
TRAINING = {
    "torch",
    "triton",
    "transformers",
    "peft",
    "safetensors",
    "av",
    "boto3",
    "botocore",
    "numpy",
    "pillow",
}
CLUSTER = {"kubernetes", "kubernetes-asyncio", "kopf", "aiohttp"}
IMPORT_ALL = """
import importlib, pkgutil, sys
import mochi_operator
for module in pkgutil.walk_packages(mochi_operator.__path__, "mochi_operator."):
    importlib.import_module(module.name)
print(*sorted({"torch", "boto3", "mochi_trainer", "mochi_api"} & set(sys.modules)))
"""


def locked(name: str) -> dict[str, str]:
    """Package -> the rest of its entry (version and hashes) in requirements/<name>.txt."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(==.*(?:\n[ \t].*)*)", text, re.MULTILINE))


def copied_from_context() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [path for line in lines for path in line.split()[:-1]]


def test_the_trainer_with_wandb_has_the_same_packages_and_those_of_the_extra() -> None:
    plain, extra = locked("trainer"), locked("trainer-wandb")
    assert "wandb" in extra.keys() - plain.keys()
    versions = [{name: rest.split()[0] for name, rest in each.items()} for each in (plain, extra)]
    assert versions[0].items() <= versions[1].items()


def stage(name: str) -> str:
    """The lines of one stage of the Dockerfile."""
    return re.split(r"^FROM ", DOCKERFILE.split(f" AS {name}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_operators_lock_holds_no_training_package_and_the_trainers_no_kubernetes_client() -> None:
    operator, trainer = locked("operator"), locked("trainer")
    assert operator.keys() & TRAINING == set()
    assert trainer.keys() & CLUSTER == set()
    assert {"kopf", "pydantic"} <= operator.keys()
    assert {"torch", "boto3", "pydantic"} <= trainer.keys()


@pytest.mark.parametrize("name", ["operator", "trainer", "trainer-wandb"])
def test_the_tests_run_with_the_packages_of_the_images(name: str) -> None:
    image, tests = locked(name), locked("dev")
    pins = {package: (rest.split()[0], tests.get(package, "").split()[:1]) for package, rest in image.items()}
    assert {package: pin for package, pin in pins.items() if [pin[0]] != pin[1]} == {}


@pytest.mark.parametrize("name", ["operator", "trainer", "trainer-wandb", "build"])
def test_every_requirement_of_an_image_is_pinned_and_hashed_and_no_index_is_named(name: str) -> None:
    entries = locked(name)
    assert entries
    assert [package for package, rest in entries.items() if "--hash=sha256:" not in rest] == []
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    stated = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in stated if re.search(r"index-url|https?://", line)] == []


@pytest.mark.parametrize("target", ["operator", "trainer"])
def test_an_image_gets_its_own_packages_and_no_others(target: str) -> None:
    text = stage(f"{target}-packages")
    assert tuple(re.findall(r"^COPY (\S+/mochi_\w+) ", text, re.MULTILINE)) == PACKAGES[target]
    assert re.findall(r"requirements/(\w+)\.txt", text) == [target, target]


@pytest.mark.parametrize("target", ["operator", "trainer"])
def test_an_image_runs_its_package_as_a_user_without_rights(target: str) -> None:
    text = stage(target)
    assert f'ENTRYPOINT ["python", "-m", "mochi_{target}"]' in text
    assert f"FROM runtime AS {target}\n" in DOCKERFILE
    users = re.findall(r"^USER (.+)$", stage("runtime") + text, re.MULTILINE)
    assert users[-1] == "10001:10001"
    assert users == ["10001:10001"] or target == "trainer"


def test_the_trainer_alone_has_the_c_compiler_that_triton_asks_for() -> None:
    """Without one blocks are not compiled on a GPU."""
    assert " gcc libc6-dev " in stage("trainer")
    assert "gcc" not in stage("operator") + stage("runtime")


def test_nothing_is_installed_without_a_hash() -> None:
    installs = [line for line in DOCKERFILE.splitlines() if "pip" in line and " install " in line]
    assert len(installs) == 5
    assert [
        line for line in installs if not ("--require-hashes" in line or "--no-deps --no-index" in line)
    ] == []


def test_what_the_dockerfile_copies_exists_and_the_context_lets_it_through() -> None:
    ignore = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line[:1] not in ("", "#")
    ]
    assert ignore[0] == "*"
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    for path in copied_from_context():
        assert (ROOT / path).exists() or path == "README.md", path
        assert any(fnmatch.fnmatch(path, pattern) for pattern in allowed), path


def test_the_build_script_is_sound_bash_and_refuses_an_unknown_target_before_it_does_anything(
    tmp_path: Path,
) -> None:
    script = "tests/images/build.sh"
    assert subprocess.run(["bash", "-n", script], **IN_ROOT).returncode == 0
    done = subprocess.run(
        ["bash", script, "everything"], env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, **IN_ROOT
    )
    assert done.returncode != 0
    assert "target must be operator or trainer, got everything" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_operator_needs_nothing_but_its_locked_requirements(tmp_path: Path) -> None:
    """A new environment as in the image: the operator's lock, and the two packages; all its modules import there."""
    uv = next(
        found
        for found in (Path(sys.executable).with_name("uv"), shutil.which("uv"))
        if found and Path(found).exists()
    )
    site = tmp_path / "packages"
    site.mkdir()
    for package in PACKAGES["operator"]:
        (site / Path(package).name).symlink_to(ROOT / package)
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"],
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            python,
            "--require-hashes",
            "-r",
            "requirements/operator.txt",
        ],
    ):
        done = subprocess.run(command, **IN_ROOT)
        assert done.returncode == 0, done.stderr
    environment = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path)}
    done = subprocess.run([python, "-c", IMPORT_ALL], env=environment, **IN_ROOT)
    assert (done.returncode, done.stdout.split()) == (0, ["mochi_api"]), done.stderr
