"""Messages, the chat template, cases, trajectories and the user's data files. Imports no torch, no Ray."""
