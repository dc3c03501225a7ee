"""Expert feedback: the store of rankings, the simulated annotators, how far annotators agree, and files from and to other tools."""
