"""The run folder and what is known of a run: config, lock, status, metrics, summary, jobs."""
