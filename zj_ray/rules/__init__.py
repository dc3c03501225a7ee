"""Rules on a doctor's words: pure text in, numbers and reasons out. Imports no torch, no Ray."""
