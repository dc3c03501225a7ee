"""Messages, trajectories, data files and the synthetic clinic. Imports no torch, no Ray."""
