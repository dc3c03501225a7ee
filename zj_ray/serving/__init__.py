"""Serving: the trained doctor behind an OpenAI-compatible endpoint on Ray Serve, a client, a terminal chat."""
