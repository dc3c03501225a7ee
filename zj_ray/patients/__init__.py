"""Simulated patients: what is true of one patient, what he may say, and how he says it."""
