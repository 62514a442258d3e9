"""What was not finite in a step: the clip, and the layer where it began."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mochi_trainer.parallel.sharding import own_part
from mochi_trainer.train.draws import Example


def bad_layer(model: nn.Module, example: Example) -> str:
    """Name of the first layer whose output is not finite; empty when all are. All ranks call together, with one example.

    It costs one forward pass, operator by operator, since of compiled blocks no layer is seen. A layer within another ends
    first, so that it is the one that is named.
    """
    found: list[str] = []

    def watched(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_: nn.Module, __: object, output: object) -> None:
            if not found and not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
                found.append(name)

        return module.register_forward_hook(look)

    hooks = [watched(name, module) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            model(example.x, example.sigma, example.text)
    finally:
        for hook in hooks:
            hook.remove()
    return next(iter(found), "")


def bad_gradient(model: nn.Module) -> str:
    """Name of the parameter, counted from the output, whose gradient is the first on this rank that is not finite; or empty."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not bool(own_part(parameter.grad).isfinite().all()):
            return name
    return ""


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for each in output:
            yield from _tensors(each)
