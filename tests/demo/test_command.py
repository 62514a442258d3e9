"""The command line: checks first, one clear message for each thing that lacks, honest exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from demo import devsite, embeddings, example, images, prerequisites
from demo.__main__ import intro, parser
from demo.bucket import Bucket, BucketError
from demo.deadline import Deadline, DeadlineError
from demo.install import namespace, storage_secret
from demo.kubectl import Kubectl
from demo.run import apply
from demo.sites import Site, SiteError, current
from demo.steps import Steps
from devcluster import signals
from mochi_api import resolved
from mochi_api.prediction.admission import memory_problem
from mochi_api.rules import violations
from mochi_api.spec import FineTuneSpec


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        cwd=project, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def bucket(name: str = "demo", endpoint: str = "http://127.0.0.1:1") -> Bucket:
    return Bucket(name=name, endpoint=endpoint, access_key="a", secret_key="very secret")


def test_the_current_cluster_is_told_everything_that_lacks_in_one_message(tmp_path: Path) -> None:
    empty = tmp_path / "kubectl"
    empty.write_text('#!/bin/bash\necho "Error from server (NotFound): no $*" >&2\nexit 1\n')
    empty.chmod(0o755)
    with pytest.raises(SiteError) as caught:
        current(namespace="nowhere", bucket="", s3_endpoint="", pod_endpoint="", binary=str(empty))
    for words in (
        "--bucket",
        "pytorchjobs.kubeflow.org",
        "mochifinetunes",
        "namespace nowhere",
        "secret mochi-s3",
    ):
        assert words in str(caught.value)


def test_a_cluster_that_does_not_answer_is_said_once_and_ends_with_1(project: Path, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {}}]}"
    )
    done = run(project, "--cluster", "current", "--bucket", "b", KUBECONFIG=str(config), AWS_ACCESS_KEY_ID="")
    assert done.returncode == 1
    assert done.stdout.count("a cluster that answers") == 1
    assert "AWS_ACCESS_KEY_ID" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_missing_prerequisite_is_one_line_and_the_rest_is_still_checked() -> None:
    found = prerequisites.lacking([lambda: "no bread", lambda: None, lambda: "no butter"])
    assert found == ["no bread", "no butter"]


def test_this_machine_has_what_the_demo_needs() -> None:
    assert prerequisites.lacking() == []


def test_a_deadline_is_shared_and_names_what_was_waited_for() -> None:
    deadline = Deadline(100)
    assert deadline.left("helm", 5) == 5
    assert 99 < deadline.left("helm") <= 100
    with pytest.raises(DeadlineError, match=r"helm: not done within the limit of 0 s \(--time-limit\)"):
        Deadline(0).left("helm")


def signalled(
    project: Path, folder: Path, name: str, parent: str = "true"
) -> subprocess.CompletedProcess[str]:
    """A demo that gets a signal at its first call of kubectl, started by a shell that has run `parent`."""
    kubectl = folder / "kubectl"
    kubectl.write_text(f"#!/bin/bash\nkill -s {name} $PPID\necho NotFound >&2\nexit 1\n")
    kubectl.chmod(0o755)
    command = [sys.executable, "-m", "demo", "--cluster", "current"]
    return subprocess.run(
        ["bash", "-c", f'{parent}; exec "$@"', "bash", *command],
        cwd=project, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, preexec_fn=signals.default_all,
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143), ("HUP", 143)])
def test_a_demo_can_be_stopped_also_when_it_runs_in_the_background(
    project: Path, tmp_path: Path, name: str, code: int
) -> None:
    done = signalled(project, tmp_path, name, 'trap "" INT QUIT TERM')
    assert (done.returncode, done.stderr) == (code, "")
    assert "everything is cleaned up" in done.stdout


def test_a_demo_under_nohup_goes_on_when_the_terminal_is_closed(project: Path, tmp_path: Path) -> None:
    done = signalled(project, tmp_path, "HUP", 'trap "" HUP')
    assert done.returncode == 1
    assert "the demo cannot run in the current cluster" in done.stdout


def test_an_earlier_run_is_gone_with_its_pods_before_the_new_one_is_applied(tmp_path: Path) -> None:
    program = tmp_path / "kubectl"
    program.write_text(f'#!/bin/bash\necho "$*" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    kubectl = Kubectl(binary=str(program), kubeconfig=None, namespace="demo")
    site = Site(kubectl=kubectl, bucket=bucket(), endpoint="")
    assert apply(site, {"metadata": {"name": "bus"}}, Deadline(60)) == "bus"
    verbs = [line.removeprefix("--namespace=demo ") for line in (tmp_path / "calls").read_text().splitlines()]
    assert [verb.split(" --timeout")[0] for verb in verbs] == [
        "delete mochifinetunes.mochi.finetune.dev bus --ignore-not-found",
        "wait --for=delete jobs,pytorchjobs,pods -l mochi.finetune.dev/finetune=bus",
        "apply -f -",
    ]


def test_namespaces_admit_only_restricted_pods() -> None:
    assert namespace("demo")["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_the_secret_has_the_keys_that_the_api_documents() -> None:
    assert set(storage_secret("s", "a", "b")["stringData"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_a_bucket_does_not_print_its_secret() -> None:
    assert "very secret" not in repr(bucket())


def test_addresses_of_other_buckets_are_refused() -> None:
    assert bucket().key_of("s3://demo/runs/1/report.html") == "runs/1/report.html"
    for other in ("s3://demo2/runs/1", "file:///demo/runs", "https://demo/runs"):
        with pytest.raises(BucketError, match="is not in bucket demo"):
            bucket().key_of(other)


def test_an_s3_that_does_not_answer_is_named() -> None:
    with pytest.raises(BucketError, match=r"cannot make the bucket in bucket demo at http://127\.0\.0\.1:1"):
        bucket().create()


def test_forgetting_embeddings_tells_whether_there_were_any(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    (folder / "cache").mkdir(parents=True)
    assert embeddings.forget(folder)
    assert not folder.exists()
    assert not embeddings.forget(folder)


def test_an_example_is_placed_into_another_bucket(project: Path) -> None:
    site = Site(
        kubectl=Kubectl(binary="kubectl", kubeconfig=None, namespace="x"), bucket=bucket("mine"), endpoint=""
    )
    original = example.read(project / "examples", "lora")
    spec = example.placed(original, site)["spec"]
    assert spec["dataset"] == {"source": {"s3": {"uri": "s3://mine/clips/bikes/"}}}
    assert spec["storage"]["outputURI"] == "s3://mine/"
    assert spec["storage"]["s3"] == {"endpoint": "", "pathStyle": False, "credentialsSecretName": "mochi-s3"}
    assert original == example.read(project / "examples", "lora")


def test_in_the_dev_cluster_the_example_is_applied_as_it_stands(project: Path) -> None:
    site = Site(
        kubectl=Kubectl(binary="kubectl", kubeconfig=None, namespace="x"),
        bucket=bucket(),
        endpoint="http://s3.devcluster.svc:7070",
    )
    for mode in example.FILES:
        assert example.placed(example.read(project / "examples", mode), site) == example.read(
            project / "examples", mode
        )


def test_a_step_says_what_it_was_and_how_long_it_took() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with Steps(console).step("helm install [x]"):
        pass
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "✓ helm install [x]  (0 s)\n"


def test_a_step_that_fails_is_not_said_to_be_done() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with pytest.raises(ValueError, match="no"), Steps(console).step("helm install"):
        raise ValueError("no")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_the_first_words_say_what_happens_and_how_long_it_takes() -> None:
    words = intro(parser().parse_args(["--mode", "full"]))
    assert "trained by two pods" in words
    assert "Under 5 minutes" in words


@pytest.mark.parametrize("mode", example.FILES)
@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_with_gpus_the_example_has_one_pod_with_a_process_for_each(
    project: Path, mode: str, gpus: int
) -> None:
    original = example.read(project / "examples", mode)
    spec = FineTuneSpec.model_validate(example.with_gpus(original, gpus)["spec"], extra="forbid")
    assert (resolved.replicas(spec), resolved.gpus(spec).training, resolved.processes(spec)) == (
        1,
        gpus,
        gpus,
    )
    assert (violations(spec), memory_problem(spec)) == ([], None)
    assert resolved.gpus(spec)._replace(training=0) == (0, 0, 0, 0)
    assert (
        ("limits: Memory" in example.changes(mode, gpus))
        is (spec.limits == "Memory")
        is (mode == "lora" and gpus > 1)
    )
    assert original == example.read(project / "examples", mode) == example.with_gpus(original, 0)


def test_the_node_of_the_demo_has_room_for_the_most_gpus_a_pod_can_ask_for(project: Path) -> None:
    parser().parse_args(["--gpus-per-pod", str(devsite.GPUS)])
    with pytest.raises(SystemExit):
        parser().parse_args(["--gpus-per-pod", str(devsite.GPUS + 1)])
    assert "--gpus-per-pod $(GPUS_PER_POD)" in (project / "Makefile").read_text()


def test_the_first_words_say_that_the_gpus_are_none() -> None:
    words = intro(parser().parse_args(["--mode", "full", "--gpus-per-pod", "2"]))
    assert (
        "trained by one pod with 2 processes, one for each GPU (this cluster only pretends to have GPUs"
        in words
    )
    assert "pretends" not in intro(parser().parse_args(["--gpus-per-pod", "2", "--cluster", "current"]))


def test_the_image_table_runs_this_checkout_with_the_entry_points_of_the_dockerfile(project: Path) -> None:
    dockerfile = (project / "Dockerfile").read_text()
    table = images.table(project)
    assert set(table) == {"mochi-operator", "mochi-trainer"}
    for entry in table.values():
        assert f"ENTRYPOINT {str(entry['entrypoint']).replace(chr(39), chr(34))}" in dockerfile
        assert entry["env"]["PATH"].startswith(str(Path(sys.executable).parent))


def test_a_checkout_below_tmp_is_shown_to_the_pods_which_have_a_tmp_of_their_own() -> None:
    assert "/tmp/clone" in images.table(Path("/tmp/clone"))["mochi-trainer"]["visible"]
    assert "/srv/clone" not in images.table(Path("/srv/clone"))["mochi-trainer"]["visible"]
