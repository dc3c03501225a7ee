"""The living fleet: its engines, their number and health, and the weights that they speak with."""
