"""One module for each command: wires storage to the pure parts."""
