"""The numbers that fix the shape of the transformer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTParams:
    """Sizes of the transformer; the defaults are those of the published Mochi-1 (10 027 677 744 parameters)."""

    depth: int = 48
    """Blocks."""

    visual_width: int = 3072
    """Width of the visual stream (D)."""

    text_width: int = 1536
    """Width of the text stream (E)."""

    heads: int = 24
    """Attention heads (A); each is `visual_width / heads` wide (P)."""

    patch: int = 2
    """Rows and columns of a spatial patch; time is not patched."""

    latent_channels: int = 12
    """Channels of the latents, in and out (C)."""

    text_feature_width: int = 4096
    """Width of the text encoder's features (K)."""

    text_tokens: int = 256
    """Most text tokens the model was trained with (L)."""

    pooling_heads: int = 8
    """Heads of the attention that pools the text features."""

    timestep_width: int = 256
    """Width of the sinusoidal embedding of the timestep."""

    mlp_multiple: int = 256
    """The hidden width of an MLP is two thirds of four times its width, rounded up to a multiple of this."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}")
        if self.visual_width % self.heads or self.head_width % 2:
            raise ValueError(
                f"visual_width must be an even multiple of heads = {self.heads}, got {self.visual_width}"
            )
        if self.text_feature_width % self.pooling_heads:
            raise ValueError(
                f"text_feature_width must be a multiple of pooling_heads = {self.pooling_heads}, "
                f"got {self.text_feature_width}"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head (P)."""
        return self.visual_width // self.heads

    def mlp_width(self, width: int) -> int:
        """Hidden width of the gated MLP of a stream that is `width` wide."""
        hidden = 2 * (4 * width) // 3
        return -(-hidden // self.mlp_multiple) * self.mlp_multiple
