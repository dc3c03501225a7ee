"""zj_ray: reinforcement learning from expert feedback for Chinese medical dialogue models, on Ray."""

__version__ = "0.1.0"
