"""What runs the training: one object for each attempt."""
