"""The transformer's layers and parameters, by preset.

D and E are the widths of the visual and the text stream, K that of the text features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from mochi_api.spec import Preset, Target

Rows = Literal["visual", "text", "once"]
"""What a layer is applied to: every visual token, every text token, or one vector for the whole clip."""


class Layer(NamedTuple):
    """One matrix, with a bias or without."""

    name: str
    inputs: int
    outputs: int
    rows: Rows
    bias: bool = False

    @property
    def weights(self) -> int:
        """Entries of the matrix; each costs two operations a row."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Entries of the matrix and of its bias."""
        return self.weights + (self.outputs if self.bias else 0)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The sizes of the transformer; the defaults are those of the published model."""

    depth: int = 48
    width: int = 3072
    """D."""
    text_width: int = 1536
    """E."""
    heads: int = 24
    patch: int = 2
    channels: int = 12
    """Of the latents."""
    feature_width: int = 4096
    """K."""
    text_tokens: int = 256
    """Longest caption."""
    timestep_width: int = 256
    mlp_multiple: int = 256

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Hidden width of the visual stream's MLP."""
        return self._hidden(self.width)

    @property
    def text_hidden(self) -> int:
        """Hidden width of the text stream's MLP."""
        return self._hidden(self.text_width)

    def _hidden(self, width: int) -> int:
        return -(-(2 * (4 * width) // 3) // self.mlp_multiple) * self.mlp_multiple

    @cached_property
    def block(self) -> tuple[Layer, ...]:
        """The layers of every block but the last."""
        wide, narrow = self.width, self.text_width
        return (
            Layer("mod_x", wide, 4 * wide, "once", bias=True),
            Layer("mod_y", wide, 4 * narrow, "once", bias=True),
            Layer("attn.qkv_x", wide, 3 * wide, "visual"),
            Layer("attn.qkv_y", narrow, 3 * wide, "text"),
            Layer("attn.proj_x", wide, wide, "visual", bias=True),
            Layer("attn.proj_y", wide, narrow, "text", bias=True),
            Layer("mlp_x.w1", wide, 2 * self.hidden, "visual"),
            Layer("mlp_x.w2", self.hidden, wide, "visual"),
            Layer("mlp_y.w1", narrow, 2 * self.text_hidden, "text"),
            Layer("mlp_y.w2", self.text_hidden, narrow, "text"),
        )

    @cached_property
    def last_block(self) -> tuple[Layer, ...]:
        """The layers of the last block, which leaves the text as it is."""
        gone = ("attn.proj_y", "mlp_y.w1", "mlp_y.w2")
        kept = (layer for layer in self.block if layer.name not in gone)
        return tuple(
            layer._replace(outputs=self.text_width) if layer.name == "mod_y" else layer for layer in kept
        )

    def layers(self, index: int) -> tuple[Layer, ...]:
        """The layers of one block."""
        return self.last_block if index == self.depth - 1 else self.block

    def like(self, index: int) -> int:
        """The first block that has the same layers as block `index`: only the last one is another."""
        return index if index == self.depth - 1 else 0

    @cached_property
    def ends(self) -> tuple[Layer, ...]:
        """The layers before and after the blocks; the text's pooling reads the text and its mean."""
        wide, features, pixels = self.width, self.feature_width, self.channels * self.patch**2
        return (
            Layer("x_embedder.proj", pixels, wide, "visual", bias=True),
            Layer("t_embedder.mlp.0", self.timestep_width, wide, "once", bias=True),
            Layer("t_embedder.mlp.2", wide, wide, "once", bias=True),
            Layer("t5_y_embedder.to_kv", features, 2 * features, "text", bias=True),
            Layer("t5_y_embedder.to_q", features, features, "once", bias=True),
            Layer("t5_y_embedder.to_out", features, wide, "once", bias=True),
            Layer("t5_yproj", features, self.text_width, "text", bias=True),
            Layer("final_layer.mod", wide, 2 * wide, "once", bias=True),
            Layer("final_layer.linear", wide, pixels, "visual", bias=True),
        )

    @property
    def frequencies(self) -> int:
        """Entries of `pos_frequencies`, which every rank keeps whole."""
        return 3 * self.heads * (self.head_width // 2)

    def block_parameters(self, index: int) -> int:
        """Parameters of one block, with the four norms of queries and keys."""
        return _total(self.layers(index)) + 4 * self.head_width

    @cached_property
    def end_parameters(self) -> int:
        """Parameters outside the blocks."""
        return _total(self.ends) + self.frequencies

    @cached_property
    def parameters(self) -> int:
        """All parameters."""
        return self.end_parameters + sum(map(self.block_parameters, range(self.depth)))


def _total(layers: Iterable[Layer]) -> int:
    return sum(layer.parameters for layer in layers)


NETWORKS: Mapping[Preset, Network] = {
    "mochi-1": Network(),
    "nano": Network(depth=3, width=192, text_width=96, heads=4, feature_width=64),
}
"""The sizes of each preset; a test compares them with the trainer's."""

TARGET_LAYERS: Mapping[Target, tuple[str, int]] = {
    "query": ("attn.qkv_x", 3),
    "key": ("attn.qkv_x", 3),
    "value": ("attn.qkv_x", 3),
    "output": ("attn.proj_x", 1),
    "mlp_in": ("mlp_x.w1", 1),
    "mlp_out": ("mlp_x.w2", 1),
    "text_query": ("attn.qkv_y", 3),
    "text_key": ("attn.qkv_y", 3),
    "text_value": ("attn.qkv_y", 3),
    "text_output": ("attn.proj_y", 1),
    "text_mlp_in": ("mlp_y.w1", 1),
    "text_mlp_out": ("mlp_y.w2", 1),
}
"""The layer that carries the adapter of a target, and how many equal parts its rows have."""


def adapted(network: Network, index: int, targets: Iterable[Target]) -> tuple[Layer, ...]:
    """The parts of the layers of block `index` that carry an adapter, called by their target."""
    layers = {layer.name: layer for layer in network.layers(index)}
    found = ((target, *TARGET_LAYERS[target]) for target in targets)
    return tuple(
        Layer(target, layers[name].inputs, layers[name].outputs // parts, layers[name].rows)
        for target, name, parts in found
        if name in layers
    )


def adapter_parameters(network: Network, targets: Iterable[Target], rank: int) -> int:
    """Entries of all adapter matrices."""
    chosen = tuple(targets)
    parts = (part for index in range(network.depth) for part in adapted(network, index, chosen))
    return sum(rank * (part.inputs + part.outputs) for part in parts)
