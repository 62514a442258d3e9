"""The training objective, noise schedules and the sampler."""

from mochi_trainer.flow.objective import loss, mix, sigmas_uniform, velocity_target
from mochi_trainer.flow.sampler import Prompt, Velocity, euler, guided, sample, trajectory
from mochi_trainer.flow.schedule import linear_quadratic_schedule

__all__ = [
    "Prompt",
    "Velocity",
    "euler",
    "guided",
    "linear_quadratic_schedule",
    "loss",
    "mix",
    "sample",
    "sigmas_uniform",
    "trajectory",
    "velocity_target",
]
