"""A step of one case, counted on tensors without memory: what a GPU would have to compute, launch and move."""

from __future__ import annotations

from collections.abc import Mapping

from mochi_api.prediction import flops
from mochi_api.prediction.gpus import GIB
from mochi_api.prediction.memory import memory
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work
from mochi_trainer.jobs.bench.cases import Case
from mochi_trainer.jobs.bench.table import Cell, Column
from mochi_trainer.plan import traced_by_few
from mochi_trainer.presets import preset_named

RANKS = {"lora": 1, "full": 8}
"""GPUs of a training by mode, as a MochiFineTune has them by default."""

_PETA = "{:.3f}".format
_TERA = "{:.2f}".format

COLUMNS = (
    Column("mode", "mode"),
    Column("frames", "frames"),
    Column("gpus", "GPUs"),
    Column("pflop_asked", "PFLOP asked for", _PETA),
    Column("pflop_executed", "executed", _PETA),
    Column("pflop_attention", "of it attention", _PETA),
    Column("operators", "operators"),
    Column("tb_moved", "TB moved", _TERA),
    Column("tb_between", "of it outside products and attention", _TERA),
    Column("predicted_gib", "predicted peak GiB", "{:.1f}".format),
    Column("note", "note"),
)
"""Of one GPU and step; no block is left alone, and none is compiled: what compilation saves, `tests/bench/compiled_bytes.py` counts."""


def counted(case: Case) -> Mapping[str, Cell]:
    """A row of the table, for the published model."""
    params, world = preset_named("mochi-1").dit, RANKS[case.mode]
    found = traced_by_few(params, case.frames, case.mode, world=world)
    work = Work(
        mode=case.mode, network=NETWORKS["mochi-1"], frames=case.frames, width=848, height=480, world=world
    )
    return {
        "mode": case.mode,
        "frames": case.frames,
        "gpus": world,
        "pflop_asked": flops.useful(work) / 1e15,
        "pflop_executed": found.flops / 1e15,
        "pflop_attention": found.attention_flops / 1e15,
        "operators": found.operators,
        "tb_moved": found.moved_bytes / 1e12,
        "tb_between": found.between_bytes / 1e12,
        "predicted_gib": memory(work, Policy(left_alone=0)).peak / GIB,
    }
