"""An exponential moving average of the weights, in float32, of this rank's rows only.

After the n-th update, counted from the weights that it began with, the average moves towards them by 1 - min(decay,
(1 + n) / (10 + n)): the warm-up of TensorFlow's and Diffusers' averages, without which the first weights would weigh most for
as long as 1 / (1 - decay) steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mochi_trainer.parallel.sharding import own_part


class Average:
    """That of `parameters`, by name, from the weights that they have now on. It takes as much memory as they do."""

    @torch.no_grad()
    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._averages = {name: weight.clone() for name, weight in self._weights().items()}
        self._decay = decay
        self.updates = 0
        """How often the weights have changed since it began."""

    def tensors(self) -> Mapping[str, Tensor]:
        """This rank's rows of the average by name, where they are kept."""
        return self._averages

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights, which have changed once; the device is not waited for."""
        self.updates += 1
        weight = 1 - decay_after(self.updates, self._decay)
        torch._foreach_lerp_(list(self._averages.values()), list(self._weights().values()), weight)

    @torch.no_grad()
    def put(self, averages: Mapping[str, Tensor], updates: int) -> None:
        """Make `averages`, this rank's rows by name, the average after so many updates."""
        for name, average in self._averages.items():
            average.copy_(averages[name])
        self.updates = updates

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the weights as they are."""
        self.put(self._weights(), 0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For the length of the block the parameters have the average's numbers; then their own again, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _weights(self) -> dict[str, Tensor]:
        """This rank's rows, where they are now: FSDP2 may put them elsewhere before the first step."""
        return {name: own_part(parameter.detach()) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def _exchange(self) -> None:
        """One tensor after the other, so that no second copy of all is needed."""
        for name, weight in self._weights().items():
            kept = weight.clone()
            weight.copy_(self._averages[name])
            self._averages[name].copy_(kept)


def decay_after(updates: int, decay: float) -> float:
    """The share of the old average that is left by an update, the first of which is number 1."""
    return min(decay, (1 + updates) / (10 + updates))
