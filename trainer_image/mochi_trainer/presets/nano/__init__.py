"""How the small model is made: clips drawn in code, seeded training on a CPU; `weights/` is the result.

`python -m mochi_trainer.presets.nano` makes the weights again.
"""
