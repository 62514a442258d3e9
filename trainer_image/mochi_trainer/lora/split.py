"""A linear layer computed in named parts, each of which can carry an adapter, without moving or renaming its weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mochi_trainer.model.narrow import Linear


class Rows(Linear):
    """Some rows of another linear layer. It owns no parameter: it reads the other's at each call.

    To peft it is a linear layer like any other.
    """

    def __init__(self, whole: Linear, start: int, stop: int) -> None:
        nn.Module.__init__(self)
        self.in_features = whole.in_features
        self.out_features = stop - start
        self._rows = slice(start, stop)
        self._whole = (whole,)  # a tuple, so that nn.Module does not count it as a child

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # nn.Linear declares an attribute that can be set
        """The rows of the whole weight, a view."""
        return self._whole[0].weight[self._rows]

    def at_hand(self) -> Tensor:
        """The rows of the whole weight where it is computed with, a view."""
        return self._whole[0].at_hand()[self._rows]

    @property
    def scale(self) -> Tensor | None:  # type: ignore[override]  # as above
        """The rows of the whole scale, a view."""
        scale = self._whole[0].scale
        return None if scale is None else scale[self._rows]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]  # as above
        """The entries of the whole bias, a view."""
        bias: Tensor | None = self._whole[0].bias
        return None if bias is None else bias[self._rows]


class SplitLinear(Linear):
    """Takes over the parameters of `linear` under the same names and computes equal parts of its rows by themselves.

    Returns one tensor for one part, else a tuple, like `mochi_trainer.model.layers.FusedLinear`. Three products with
    a third of the rows each cost the same arithmetic as the fused one.
    """

    def __init__(self, linear: nn.Linear, parts: Sequence[str]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("scale", None)
        self.parts = tuple(parts)
        rows = self.out_features // len(self.parts)
        for index, part in enumerate(self.parts):
            self.add_module(part, Rows(self, index * rows, (index + 1) * rows))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]  # one tensor in nn.Linear
        outputs = tuple(self.get_submodule(part)(x) for part in self.parts)
        return outputs if len(outputs) > 1 else outputs[0]
