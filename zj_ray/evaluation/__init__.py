"""Evaluation: paired statistics, forgetting, the summary of a run and its report."""
