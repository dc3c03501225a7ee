"""Expert feedback: the store of rankings, the simulated annotators, and how far annotators agree."""
