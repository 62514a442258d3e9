"""How the small model is made: clips drawn in code and real ones, seeded training on a CPU; `weights/` is the result.

`make nano` makes the weights again.
"""
