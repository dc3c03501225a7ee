"""One short file a stage: what it needs, what it does, what it leaves behind."""
