"""The command bench: how fast training steps are on the GPU that is there, or, without one, what they would launch and move."""
