"""Which compiler a run has: the named one, which must work; else the usual one, if it works on every rank."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import eager

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.compiler import training_compiler, usual
from mochi_trainer.jobs.composing import adapters_of, choices_of
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.presets import preset_named
from mochi_trainer.train.composition import Choices
from tests.trainer.distributed import run_distributed
from tests.trainer.training_runs import run_file

CPU = torch.device("cpu")
NANO = preset_named("nano").dit
OTHERS = Choices(compute=torch.float32, attention=Backend.CPU, left_alone=0)


def chosen(
    root: Path, group: Group, environ: dict[str, str], otherwise: str | None = None, **training: Any
) -> str | None:
    torch.set_num_threads(1)
    run = run_file(root, **training)
    return training_compiler(run, NANO, OTHERS, adapters_of(run), group, CPU, environ, otherwise=otherwise)


def test_blocks_are_compiled_by_inductor_on_a_gpu_unless_something_else_is_said() -> None:
    assert usual("cuda") == "inductor"
    assert usual("cpu") is None


@pytest.mark.parametrize("environ", [{}, {"MOCHI_COMPILE": ""}, {"MOCHI_COMPILE": "off"}])
def test_nothing_is_compiled_on_a_cpu_or_where_it_is_left_out(
    tmp_path: Path, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    otherwise = "inductor" if environ.get("MOCHI_COMPILE") else usual("cpu")
    assert chosen(tmp_path, Group(), environ, otherwise) is None
    assert caplog.messages[-1] == "blocks are computed operator by operator"


def test_a_compiler_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"MOCHI_COMPILE must be off or one of .*inductor.*, got fastest"
    ):
        chosen(tmp_path, Group(), {"MOCHI_COMPILE": "fastest"})


def test_blocks_that_wait_in_host_memory_are_not_compiled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lora = {"lora": {"blocksToSwap": 2}}
    assert chosen(tmp_path, Group(), {}, "inductor", **lora) is None
    assert caplog.messages[-1] == "blocks are not compiled, since 2 of them wait in host memory"
    assert chosen(tmp_path, Group(), {"MOCHI_COMPILE": "off"}, "inductor", **lora) is None
    with pytest.raises(
        InvalidInputError, match=r"MOCHI_COMPILE must be left out or off with .*blocksToSwap 2, got inductor"
    ):
        chosen(tmp_path, Group(), {"MOCHI_COMPILE": "inductor"}, "inductor", **lora)


def _refusing(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no kernel for this device")


def _alone(root: Path, environ: dict[str, str]) -> tuple[str | None, list[str]]:
    """What is chosen where the usual compiler refuses, and the warnings; or the error."""
    torch._dynamo.register_backend(_refusing, name="refusing")
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("mochi_trainer").addHandler(handler)
    try:
        return chosen(root, Group(), environ, "refusing"), told
    except InvalidInputError as error:
        return str(error), told


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_a_compiler_that_nobody_named_and_that_fails_is_left_out_with_one_warning(tmp_path: Path) -> None:
    ((name, told),) = run_distributed(_alone, 1, tmp_path, {}, limit=200)
    assert name is None
    (line,) = told
    assert line.startswith("blocks are not compiled, which takes longer: refusing cannot be used, ")


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_a_compiler_that_was_named_and_fails_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    ((error, told),) = run_distributed(_alone, 1, tmp_path, {"MOCHI_COMPILE": "refusing"}, limit=200)
    assert error is not None
    assert error.startswith("MOCHI_COMPILE must name a compiler that works here, or off, got refusing")
    assert told == []


def _of_two(root: Path, fails: bool) -> tuple[str | None, list[str]]:
    """Rank 1's compiler may refuse; its own environment counts for nothing."""
    first = os.environ["RANK"] == "0"
    backend = _refusing if fails and not first else eager
    torch._dynamo.register_backend(backend, name="usual_one")
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("mochi_trainer").addHandler(handler)
    with joined(ranks_of(os.environ, processes=2), CPU, limit=100) as group:
        return chosen(root, group, {} if first else {"MOCHI_COMPILE": "off"}, "usual_one"), told


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_all_ranks_compile_or_none_does(tmp_path: Path) -> None:
    assert run_distributed(_of_two, 2, tmp_path, False, limit=300) == [("usual_one", [])] * 2
    found = run_distributed(_of_two, 2, tmp_path, True, limit=300)
    for name, (line,) in found:
        assert name is None
        assert "usual_one cannot be used, on rank 1: " in line


def test_the_choices_of_a_run_on_a_cpu_are_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOCHI_COMPILE", raising=False)
    found = choices_of(run_file(tmp_path), Group(), CPU)
    assert (found.compiler, found.many_sizes, found.synchronise_once) == (None, False, False)
