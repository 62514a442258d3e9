"""A compiler is used where it computes what is computed without it, and its trouble is told where it does not.

In processes of their own: a compilation leaves threads, and of a process with those no rank can be forked that computes gradients.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
from torch._inductor import config as inductor

from mochi_trainer.lora import LoraParams
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.context import Context, alone
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.presets import preset_named
from mochi_trainer.train import compiler_check
from mochi_trainer.train.compiler_check import trouble
from mochi_trainer.train.composition import Adapters, Choices
from tests.trainer.distributed import run_distributed

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
CPU = torch.device("cpu")
NANO = preset_named("nano").dit


def told(
    backend: str | Callable[..., Any],
    *,
    mode: str = "lora",
    dropout: float = 0.0,
    context: Context | None = None,
    **choices: Any,
) -> str:
    torch.set_num_threads(1)
    if not isinstance(backend, str):
        torch._dynamo.register_backend(backend, name=backend.__name__)
        backend = backend.__name__
    chosen = {"compute": torch.float32, "attention": Backend.CPU, "left_alone": 0, "compiler": backend}
    params = LoraParams(rank=4, targets=("query", "text_key"), dropout=dropout)
    adapters = Adapters(params=params) if mode == "lora" else None
    return trouble(NANO, Choices(**chosen | choices), adapters=adapters, device=CPU, context=context)


def raising(graph: Any, inputs: Any) -> Any:
    raise FileNotFoundError("no such file: cc\nand more")


def _scaled(forward: float, backward: float) -> Callable[..., Any]:
    """A compiler whose last kernel is off by a factor."""

    def within(factor: float) -> Callable[..., Any]:
        def compiler(graph: Any, inputs: Any) -> Any:
            def run(*given: Any) -> Any:
                found = graph(*given)
                return [
                    x * factor if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in found
                ]

            return make_boxed_func(run)

        return compiler

    def backend(graph: Any, inputs: Any) -> Any:
        return aot_module_simplified(graph, inputs, fw_compiler=within(forward), bw_compiler=within(backward))

    return backend


def wrong_output(graph: Any, inputs: Any) -> Any:
    return _scaled(1.01, 1.0)(graph, inputs)


def wrong_gradient(graph: Any, inputs: Any) -> Any:
    return _scaled(1.0, 1.01)(graph, inputs)


def no_number(graph: Any, inputs: Any) -> Any:
    return _scaled(1.0, float("nan"))(graph, inputs)


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        (raising, "BackendCompilerFailed: backend='raising' raised:"),
        (wrong_output, "differs by"),
        (wrong_gradient, "the gradient .* differs by"),
        (no_number, "the gradient .* differs by inf"),
    ],
    ids=["raises", "output", "gradient", "NaN"],
)
def test_a_compiler_that_cannot_be_used_is_told_in_one_line(backend: Callable[..., Any], text: str) -> None:
    (found,) = run_distributed(told, 1, backend, limit=200)
    assert "\n" not in found
    assert re.search(text, found), found


def _that_breaks() -> str:
    """As a block whose graph ends within."""
    before = compiler_check.unsharded

    def breaking(*given: Any, **named: Any) -> Any:
        model = before(*given, **named)
        attend = model.blocks[0].attn.attend

        def stopping(*inputs: Any) -> Any:
            torch._dynamo.graph_break()
            return attend(*inputs)

        for block in model.blocks:
            block.attn.attend = stopping
        return model

    compiler_check.unsharded = breaking
    return told("eager")


def test_a_graph_that_breaks_is_trouble() -> None:
    (found,) = run_distributed(_that_breaks, 1, limit=200)
    assert "graph_break" in found or "Unsupported" in found


def _leaving_nothing() -> tuple[str, bool, int]:
    state = torch.get_rng_state()
    found = told("aot_eager", many_sizes=True)
    code = (
        compiler_check.unsharded(
            NANO,
            Choices(compute=torch.float32, attention=Backend.CPU, left_alone=0),
            adapters=None,
            group=Group(),
        )
        .blocks[0]
        .forward.func.__code__
    )
    left = torch._dynamo.eval_frame._debug_get_cache_entry_list(code)
    return found, bool((torch.get_rng_state() == state).all()), len(left)


def test_nothing_is_left_of_the_check_and_generators_are_as_before() -> None:
    """What was compiled for a small clip would make torch take the run's for one of many sizes."""
    assert run_distributed(_leaving_nothing, 1, limit=300) == [("", True, 0)]


@pytest.mark.parametrize(
    "choices",
    [
        {"mode": "full", "compute": torch.bfloat16},
        {"base": torch.int8},
        {"dropout": 0.5},
    ],
    ids=["full", "narrow", "dropout"],
)
def test_blocks_are_checked_as_the_run_has_them(choices: dict[str, Any]) -> None:
    (found,) = run_distributed(_given, 1, choices, limit=300)
    assert found == ""


def _given(choices: dict[str, Any]) -> str:
    return told("aot_eager", **choices)


def _shared() -> tuple[str, int, list[str]]:
    with joined(ranks_of(os.environ, processes=2), CPU, limit=100, context=2) as group:
        counters.clear()
        found = told("aot_eager", context=alone(group))
        return found, counters["stats"]["unique_graphs"], list(counters["graph_break"])


def test_where_ranks_share_a_clip_each_checks_by_itself() -> None:
    assert run_distributed(_shared, 2, limit=300) == [("", 2, [])] * 2


def _inductor(cache: str, cxx: str | None) -> str:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # nothing of an earlier compilation is at hand
    if cxx is not None:
        inductor.cpp.cxx = (cxx,)
    return told("inductor", mode="full")


def test_inductor_passes_here(tmp_path: Path) -> None:
    """With the C++ compiler of this machine."""
    assert run_distributed(_inductor, 1, str(tmp_path), None, limit=500) == [""]


def test_inductor_without_a_compiler_for_its_code_is_trouble(tmp_path: Path) -> None:
    (found,) = run_distributed(_inductor, 1, str(tmp_path), "/nowhere/c++", limit=300)
    assert "C++" in found or "/nowhere/c++" in found, found
