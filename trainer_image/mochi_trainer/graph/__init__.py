"""The graph of what is made of clips: immutable results under keys of what they depend on, each made once by whoever comes first."""

from mochi_trainer.graph.ahead import ahead
from mochi_trainer.graph.claims import Claims
from mochi_trainer.graph.making import Completed, Made, Maker, Progress, complete
from mochi_trainer.graph.units import Unit, Units, unit_key

__all__ = [
    "Claims",
    "Completed",
    "Made",
    "Maker",
    "Progress",
    "Unit",
    "Units",
    "ahead",
    "complete",
    "unit_key",
]
