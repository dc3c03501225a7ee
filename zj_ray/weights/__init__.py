"""Versioned weight transfer: packed by the trainer, put into the Ray object store once, pulled by every engine."""
