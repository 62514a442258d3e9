"""Fine-tunes the Mochi-1 video model: preprocessing, training, export and sampling as one program."""
