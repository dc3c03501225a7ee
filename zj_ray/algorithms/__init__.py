"""Pure functions on tensors: no Ray, no model, no I/O. Shapes are `[batch, time]` unless a docstring says otherwise."""
