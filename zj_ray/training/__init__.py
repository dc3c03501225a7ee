"""DeepSpeed: models, packed rows, LoRA, the optimizer, the state of every rank, and checkpoints of it."""
