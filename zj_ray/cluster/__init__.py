"""Joining a Ray cluster or starting one, free ports, and what a machine lacks."""
