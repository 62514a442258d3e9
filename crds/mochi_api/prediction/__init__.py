"""What a training will need, known before it starts: parameters, operations, memory, bytes and seconds, as formulas.

Nothing here computes on a tensor, reads a file or asks a machine. The formulas are held against traces of the real step
(`tests/bench/prediction.py`). Sizes are in bytes and numbers are of one rank (one GPU) unless a name says otherwise.
"""
