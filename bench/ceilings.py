"""What this machine can do at most: matrix products and copies. `python -m bench.ceilings`

Every other benchmark divides by these, measured in the same run: a share of the machine says more than seconds do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

SQUARE = 2048


@dataclass(frozen=True)
class Ceilings:
    """The machine's rates.

    flops: of a large float32 product a second; copied: bytes a second from memory to memory, each counted once.
    """

    threads: int
    flops: float
    copied: float

    def __str__(self) -> str:
        return f"{self.threads} threads: {self.flops / 1e9:.0f} GFLOP/s, copies at {self.copied / 1e9:.1f} GB/s"

    def best(self, other: Ceilings) -> Ceilings:
        """The higher rates of two measurements: others who use the machine make it slower, never faster."""
        return Ceilings(self.threads, max(self.flops, other.flops), max(self.copied, other.copied))


def fastest(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several runs after one that warms up.

    What others take from the machine makes times longer, never shorter.
    """
    work()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def product_rate(rows: int, inner: int, columns: int, flops: float = 1e10) -> float:
    """FLOP a second of `[rows, inner] @ [inner, columns]` as a linear layer computes it.

    It is repeated up to about `flops`.
    """
    x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    count = max(1, int(flops / (2 * rows * inner * columns)))

    def work() -> None:
        for _ in range(count):
            torch.nn.functional.linear(x, weight)

    return 2 * rows * inner * columns * count / fastest(work)


def copy_rate(size: int = 256 << 20) -> float:
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return size / fastest(lambda: target.copy_(source))


def measure(threads: int) -> Ceilings:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    ceilings = Ceilings(threads, product_rate(SQUARE, SQUARE, SQUARE, flops=2e10), copy_rate())
    torch.set_num_threads(before)
    return ceilings


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three significant digits."""

    def cell(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(header) + " |", "| --- " * len(header) + "|", *lines])


def main() -> None:
    ceilings = [measure(threads) for threads in sorted({1, torch.get_num_threads()})]
    rows = [(c.threads, c.flops / 1e9, c.copied / 1e9) for c in ceilings]
    print(table(("threads", f"float32 product {SQUARE}³ [GFLOP/s]", "copy [GB/s]"), rows))


if __name__ == "__main__":
    main()
