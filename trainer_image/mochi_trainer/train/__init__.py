"""One training: draws, steps, optimizer, checkpoints, what is measured and where it is shown."""
