"""Evaluation: paired statistics, calibration, earlier rounds, and the report of a run."""
