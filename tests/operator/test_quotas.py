"""What a namespace never allows is told from what others have used up; the sentences are those of Kubernetes 1.34."""

import pytest

from mochi_operator.verdicts.quotas import closed, misfit

POD = 'Error creating: pods "j" is forbidden: '


def exceeded(asked: str, most: str, *, used: str = "x=0") -> str:
    return f"{POD}exceeded quota: q, requested: {asked}, used: {used}, limited: {most}"


@pytest.mark.parametrize(
    ("asked", "most", "pods", "message"),
    [
        ("limits.cpu=4", "limits.cpu=2", 1, "one pod asks for 4 of limits.cpu, more than the 2 that quota q allows in all"),
        ("limits.cpu=1500m", "limits.cpu=1", 1, "1500m of limits.cpu, more than the 1 "),
        ("requests.memory=64Gi", "requests.memory=64G", 1, "64Gi of requests.memory, more than the 64G "),
        ("memory=2147483648", "memory=1.5Gi", 1, "more than the 1.5Gi"),
        ("memory=1e3", "memory=999", 1, "more than the 999"),
        ("cpu=1,memory=2Gi", "cpu=8,memory=1Gi", 1, "2Gi of memory"),
        ("requests.nvidia.com/gpu=8", "requests.nvidia.com/gpu=4", 1, "8 of requests.nvidia.com/gpu"),
        ("requests.nvidia.com/gpu=1", "requests.nvidia.com/gpu=4", 8, "8 pods that run at once ask for 1 each of"),
        ("requests.nvidia.com/gpu=1", "requests.nvidia.com/gpu=0", 1, "more than the 0 "),
        ("pods=1", "pods=4", 8, "8 pods that run at once ask for 1 each of pods, more than the 4 "),
    ],
)  # fmt: skip
def test_what_no_end_of_others_makes_fit(asked, most, pods, message):
    found = misfit(exceeded(asked, most), "train", pods)
    assert found is not None
    assert message in found.message
    assert "have whoever runs the namespace raise the quota" in found.action


@pytest.mark.parametrize(
    ("said", "pods"),
    [
        (exceeded("limits.cpu=2", "limits.cpu=2", used="limits.cpu=1"), 1),
        (exceeded("memory=1Gi", "memory=1073741824"), 1),
        (exceeded("requests.nvidia.com/gpu=1", "requests.nvidia.com/gpu=8"), 8),
        (exceeded("pods=1", "pods=1"), 1),
        (exceeded("pods=1", "pods=0"), 1),
        (exceeded("count/pods=1", "count/pods=0"), 8),
        (exceeded("cpu=much", "cpu=1"), 1),
        (exceeded("cpu=1.2.3", "cpu=1"), 1),
        (exceeded("cpu=4", "memory=1"), 1),
        (f"{POD}exceeded quota: q", 8),
        (f"{POD}status unknown for quota: q, resources: pods", 1),
        ('Internal error occurred: failed calling webhook "w": context deadline exceeded', 1),
    ],
)
def test_what_may_fit_later_or_cannot_be_told(said, pods):
    assert misfit(said, "train", pods) is None


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("maximum cpu usage per Container is 1, but limit is 2", "workers.resources"),
        ("[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Pod is 1Gi, but limit is 2Gi]", "workers.resources"),
        ("minimum memory usage per Container is 4Gi, but request is 1Gi", "workers.resources"),
        ("maximum memory usage per Pod is 1Gi.  No limit is specified", "workers.resources"),
        ("cpu max limit to request ratio per Container is 1, but provided ratio is 2.000000", "workers.resources"),
        ("failed quota: q: must specify limits.cpu for: mochi-trainer", "workers.resources"),
        ("insufficient quota to consume: requests.nvidia.com/gpu", "make such a quota"),
        ("insufficient quota to match these scopes: [{PriorityClass In [high]}]", "workers.podTemplate.priorityClassName"),
    ],
)  # fmt: skip
def test_whose_move_it_is(said, action):
    found = misfit(POD + said, "train", 1)
    assert found is not None
    assert action in found.action


@pytest.mark.parametrize(
    ("name", "step", "pods", "field"),
    [
        ("limits.cpu", "trim", 1, "(workers.resources.cpu)"),
        ("memory", "train", 8, "(workers.resources.memory or workers.replicas)"),
        ("requests.ephemeral-storage", "trim", 1, "(workers.resources.ephemeralStorage)"),
        ("requests.nvidia.com/gpu", "train", 1, "(workers.gpusPerPod)"),
        ("requests.nvidia.com/gpu", "train", 8, "(workers.gpusPerPod or workers.replicas)"),
        ("requests.nvidia.com/gpu", "captions", 1, "(preprocessing.captions.gpus)"),
        ("requests.nvidia.com/gpu", "videos", 1, "(preprocessing.videos.gpus)"),
        ("requests.nvidia.com/gpu", "sample", 1, "(sampling.gpus)"),
        ("pods", "train", 8, "(workers.replicas)"),
    ],
)
def test_the_field_that_asks_is_named(name, step, pods, field):
    found = misfit(exceeded(f"{name}=4", f"{name}=2"), step, pods)
    assert found is not None
    assert field in found.action


def test_a_namespace_that_is_shut_is_known():
    assert closed(exceeded("pods=1", "pods=0"))
    assert closed(exceeded("count/jobs.batch=1", "count/jobs.batch=0"))
    assert not closed(exceeded("pods=1", "pods=1"))
    assert not closed(exceeded("cpu=1", "cpu=0"))
