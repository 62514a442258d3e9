"""The demo: real clips become a LoRA through a real control plane on one machine, and one can watch it."""
