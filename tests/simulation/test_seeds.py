"""Seeds: the first 500, and those that have found something once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.simulate import simulate

SEEDS = 500
CHUNK = 50

KEPT = [
    15,  # a pod deleted before its container ran counted as a failure of its own, in the training
    21,  # the same in a step before it
    35,  # a step given up before its first attempt was read back as one that ran
    96,  # the same in a later step
    443,  # a pod whose run file was deleted waited for ever, and nobody said so
    951,  # the operator's clock jumped ahead by 90 s, and a healthy training was called Stalled
    1238,  # a run file that was deleted, again
    1408,  # the same in the first step
    10490,  # a step that was only waiting when its run failed was forgotten
    5210,  # an attempt whose status write was lost is in no history when the run fails before it is adopted
    13977,  # a rank made again after the end of rank 0 was waited for, and called a stall
    3234,  # a pod that had waited long for its node was called slow to start, before one that still waited
    11300,  # a refusal that was lifted, and not repeated, ended the run
    476,  # an operator whose clock jumped ahead called a healthy step stalled
    18550,  # a clock that jumped while no operator ran made a refusal of 30 s look like one of two minutes
    1051,  # a child that nobody had seen yet was told to have failed for what another step had failed of
    16728,  # the judge came too early: a run made anew just after the calm was judged by the end of the one before
    18913,  # the limit was lowered below what was spent, and a preemption ended the run
    9584,  # a child that somebody deleted before its attempt was written down was made again beside its pod
    1901,  # a run file that was collected between "already exists" and a look counted as made
]


KEPT_OF_SHARDS = [
    14896,  # a shard failed, its Job deleted the others, and one that had not begun was called the cause
    13563,  # the first of the shards had ended and was evicted, result and all, and was said to wait for a place
    3211,  # the judge's own fault: three pods lacked the same file, and it wanted the names of all
    538,  # the judge's own fault: an error of the server in the moment of its look stood in the place of a refusal
    10344,  # the judge's own fault: of a pod the server says PodSecurity, and the judge wanted to read policy
    9598,  # the judge's own fault: a call under way when a person deleted the run made a child of a run that was no more
    19937,  # the judge's own fault: a shard that began in the moment of the verdict and was told to end counted as at work
    30431,  # shards that had ended, behind sidecars, held the GPUs that the last one waited for
    30291,  # a shard that hung held the GPU that another waited for, which was called waiting, for ever
]


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_no_law_is_broken(start):
    """The invariants of `laws` and `silences` hold in every world."""
    broken = [text for seed in range(start, start + CHUNK) for text in _violations(seed)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("seed", KEPT)
def test_a_seed_that_once_found_something_finds_nothing_more(seed):
    """Its world as it was then: every stage in one pod."""
    assert not _violations(seed, shards=False, previews=False)


@pytest.mark.parametrize("seed", KEPT_OF_SHARDS)
def test_a_seed_with_shards_that_once_found_something_finds_nothing_more(seed):
    assert not _violations(seed, previews=False)


def test_worlds_have_stages_of_several_pods():
    """Some of the first twenty: their pods have numbers in their names."""
    sharded = [seed for seed in range(20) if "-videos-1-" in simulate(seed, trace=True).trace]
    assert len(sharded) >= 3


def test_worlds_have_samples_during_the_training():
    """Some of the first twenty: their statuses name them."""
    assert sum(simulate(seed).previews > 0 for seed in range(20)) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_a_run_without_faults_succeeds(seed):
    result = simulate(seed, kind=True)
    assert not result.violations
    assert set(result.phases) == {"Succeeded"}


def test_a_seed_gives_the_same_trace_again():
    first, second = simulate(7), simulate(7)
    assert first.digest == second.digest
    assert first.events > 200


def test_the_trace_does_not_depend_on_the_order_of_sets():
    """Another PYTHONHASHSEED iterates sets of strings in another order."""
    assert len({_digest_under(hash_seed) for hash_seed in ("0", "1", "2")}) == 1


def _violations(seed: int, *, shards: bool = True, previews: bool = True) -> list[str]:
    result = simulate(seed, shards=shards, previews=previews)
    without = ("" if shards else " --one-pod") + ("" if previews else " --no-previews")
    hint = f"python -m tests.simulation --replay {seed} --trace{without}"
    assert result.events >= 200
    return [f"seed {seed}: {text}\n  {hint}" for text in result.violations]


def _digest_under(hash_seed: str) -> str:
    program = (
        "from tests.simulation.simulate import simulate; print([simulate(s).digest for s in (3, 15, 128)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
