"""Serving, proved: deploy the run's model, ask it a question, show the answer, stop what was started.

`zj serve RUN` keeps it up; this stage shows that it would.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zj_ray.progress import console
from zj_ray.serving.serve import prove, served_model, serving
from zj_ray.stages.context import StageContext


def serve(context: StageContext) -> dict[str, Any]:
    """Leaves the answer in the manifest."""
    context.release_fleet()
    config = context.config.serve
    with serving(served_model(context.run), config, context.config.model, name=context.config.name) as endpoint:
        answer = prove(endpoint, config)
    console.print(f"\n[bold]问 {config.question}[/bold]\n[green]答 {answer}[/green]\n")
    return {"endpoint": asdict(endpoint), "question": config.question, "answer": answer}
