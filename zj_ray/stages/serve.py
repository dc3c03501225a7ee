from __future__ import annotations
from zj_ray.stages.workshop import Workshop


def serve(shop: Workshop) -> dict:
    return {}
