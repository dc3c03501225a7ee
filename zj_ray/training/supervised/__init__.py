"""One supervised stage under Ray Train: its worker, its examples, and the objectives that it may learn."""
