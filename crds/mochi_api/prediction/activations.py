"""What the blocks keep of a forward pass for the backward pass, tensor by tensor, in bytes.

The compute type has 2 bytes (bfloat16); norms, gates and rotations are computed in float32, and autograd keeps what each
product needs for its gradients: an input only where the other factor has a gradient. Reading `mochi_trainer.model.dit`
beside this, each term is one tensor there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from mochi_api.prediction.sizes import TARGET_LAYERS, adapted
from mochi_api.prediction.work import Work

COMPUTE = 2
WIDE = 4
"""Bytes of a number in the compute type and in float32."""

_CARRIERS: dict[str, str] = {target: layer for target, (layer, _parts) in TARGET_LAYERS.items()}


class Stream(NamedTuple):
    """One of the two streams, in one block."""

    tokens: int
    width: int
    hidden: int
    turned: bool
    """Whether queries and keys are rotated."""
    updated: bool
    """Whether the block changes it."""


def streams(work: Work, index: int) -> tuple[Stream, Stream]:
    """The visual and the text stream of block `index`."""
    network = work.network
    visual = Stream(work.own_tokens, network.width, network.hidden, turned=True, updated=True)
    text = Stream(
        work.text_tokens,
        network.text_width,
        network.text_hidden,
        turned=False,
        updated=index < network.depth - 1,
    )
    return visual, text


def block_input(work: Work) -> int:
    """Both streams as a block receives them."""
    network = work.network
    return COMPUTE * (work.own_tokens * network.width + work.text_tokens * network.text_width)


def attention_kept(work: Work) -> int:
    """The attention's output, and one logsumexp a head and token, of this rank's heads."""
    return work.tokens * (COMPUTE * work.network.width + WIDE * work.network.heads) // work.context


def saved(work: Work, index: int) -> int:
    """All that autograd keeps of a block that is left alone; of the first one with adapters a little less."""
    return _saved(work, work.network.like(index))


@lru_cache(maxsize=256)
def _saved(work: Work, index: int) -> int:
    joint = 3 * COMPUTE * work.tokens * work.network.width // work.context + attention_kept(work)
    joint += _exchanged(work)
    parts = sum(_of_stream(work, stream) for stream in streams(work, index))
    return joint + parts + (0 if work.full else _of_adapters(work, index))


def _exchanged(work: Work) -> int:
    """The attention's output once more: of all heads and this rank's tokens, where ranks share a clip and its projection is trained."""
    if work.context == 1 or not (work.full or {"output", "text_output"} & set(work.targets)):
        return 0
    return COMPUTE * (work.own_tokens + work.text_tokens) * work.network.width


def temporaries(work: Work, index: int) -> int:
    """The most that a block holds besides what is kept: in the backward pass of its last norm gradients in both types.

    Of small clips with a narrow base it is more in that of its largest matrix, which is widened there, with the gradients of
    what goes through it.
    """
    widths = 18 if work.full else 22
    norm = max(stream.tokens * widths * stream.width for stream in streams(work, index))
    return max(norm, _widened(work, index)) if work.narrow else norm


def _widened(work: Work, index: int) -> int:
    largest = max(layer.weights for layer in work.network.layers(index))
    return COMPUTE * largest + 3 * work.network.width * work.own_tokens


def rotation(work: Work) -> int:
    """Cosines and sines of all tokens, held for all blocks, and the angles where those are trained."""
    pairs = work.visual_tokens * work.network.width // (2 * work.context)
    return WIDE * pairs * (3 if work.full else 2)


def rotation_gradient(work: Work) -> int:
    """Of cosines and sines, from the second block of the backward pass on."""
    return WIDE * work.visual_tokens * work.network.width // work.context if work.full else 0


def _of_stream(work: Work, stream: Stream) -> int:
    """Per token: the pre-norms in float32, queries and keys before their norms, both branches, and the MLP."""
    inner = work.network.width
    widened = WIDE * stream.width
    trained = 1 if work.full else 0
    norm = widened + trained * (widened + COMPUTE * stream.width)
    heads = 2 * WIDE * inner * (1 + trained)
    turned = 2 * WIDE * inner * trained if stream.turned else 0
    found = norm + heads + turned
    if stream.updated:
        branch = widened * (1 + trained)
        mlp = COMPUTE * stream.hidden * (3 + trained)
        found += branch + norm + mlp + branch
    return stream.tokens * found


def _of_adapters(work: Work, index: int) -> int:
    """Per token: the input, once for all that read it, and what lies between the matrices; with dropout each has its own.

    A mask of dropout is counted in the compute type, as on a CPU; on a GPU it has half of that. The input of the output
    projections is the attention's output, which is kept already. And the matrices themselves in the compute type.
    """
    found, read = 0, {"attn.proj_x", "attn.proj_y"}
    for part in adapted(work.network, index, work.targets):
        tokens = work.own_tokens if part.rows == "visual" else work.text_tokens
        layer = _CARRIERS[part.name]
        if work.dropout:
            found += tokens * 2 * COMPUTE * part.inputs
        elif layer not in read:
            found += tokens * COMPUTE * part.inputs
        found += COMPUTE * work.rank * (tokens + part.inputs + part.outputs)
        read.add(layer)
    return found
