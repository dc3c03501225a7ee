"""Simulated patients: what is true of one patient, what they may say, and how they say it."""
