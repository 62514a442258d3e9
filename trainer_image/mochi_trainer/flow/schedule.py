"""Noise levels from 1 to 0 that the sampler visits."""

from __future__ import annotations


def linear_quadratic_schedule(
    steps: int, threshold: float = 0.025, linear_steps: int | None = None
) -> list[float]:
    """`steps` + 1 noise levels from 1 to 0: first a straight line down to 1 - `threshold`, then a parabola to 0.

    `linear_steps` (half of the steps unless given) are on the line; line and parabola meet with the same slope.
    Raises ValueError unless 1 <= linear_steps < steps (a single step goes from 1 to 0) and 0 < threshold < 1.
    Source: genmoai/mochi, whose fast settings are 8 steps, threshold 0.1, 6 linear steps.
    """
    if steps == 1:
        return [1.0, 0.0]
    linear = steps // 2 if linear_steps is None else linear_steps
    if not 1 <= linear < steps:
        raise ValueError(f"linear steps must be between 1 and steps - 1 = {steps - 1}, got {linear}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    slope = threshold / linear
    rest = steps - linear
    curvature = (1 - threshold - slope * rest) / rest**2
    line = [slope * step for step in range(linear)]
    parabola = [threshold + slope * step + curvature * step**2 for step in range(rest)]
    return [1 - progress for progress in (*line, *parabola, 1.0)]
