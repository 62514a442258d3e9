"""What a training step costs, before there is a GPU to run it: traced on tensors without memory."""

from mochi_trainer.plan.by_few import traced_by_few
from mochi_trainer.plan.tracing import Traced, trace_step

__all__ = ["Traced", "trace_step", "traced_by_few"]
