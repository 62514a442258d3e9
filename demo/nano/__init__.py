"""How the small model is made: clips drawn in code and real ones, seeded training on a CPU.

The result lies in the trainer's package, `mochi_trainer/presets/nano`; `make nano` makes it again. The trainer's image has
the weights alone.
"""
