"""What a checkpoint costs: the pause of training, and the writing beside it. `python -m bench.checkpoint`

The learning state of a model of SmolLM2-135M's shape (float32 weights and AdamW's two moments) on one rank. *copy*:
every tensor of it cloned, the least that an asynchronous checkpoint can take. *pause*: from the call of
`save_checkpoint` until training may go on. *written*: until the files are synced, read back, hashed, listed and
renamed. A step beside the writing is compared with one without.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import LlamaForCausalLM

from bench.ceilings import table
from bench.subject import SMOLLM2_135M
from zj_ray.cluster.ports import free_port
from zj_ray.training.checkpoint import CheckpointStore
from zj_ray.training.model import TokenLogprobs
from zj_ray.training.shards import optimizer_of
from zj_ray.training.zero_engine import EngineSpec, TrainEngine, join_process_group

TOKENS = 256  # of a step


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--zero-stage", type=int, default=0)
    options = parser.parse_args()
    join_process_group(0, 1, "127.0.0.1", free_port(), timeout=60)
    torch.manual_seed(0)
    engine = TrainEngine(TokenLogprobs(LlamaForCausalLM(SMOLLM2_135M)), EngineSpec(1e-5, 1.0, options.zero_stage))
    ids, positions, index = torch.randint(5, 49000, (1, TOKENS)), torch.arange(TOKENS)[None], torch.arange(1, TOKENS)

    def step() -> None:
        engine.train_batch([None], lambda module, _: -module(ids, positions, index)[0].sum(), TOKENS)

    step()
    optimizer = optimizer_of(engine.engine)
    moments = [value for own in optimizer.state.values() for value in own.values() if torch.is_tensor(value)]
    tensors = [p.detach() for group in optimizer.param_groups for p in group["params"]] + moments
    copies, pauses, writings, quiet, beside = ([] for _ in range(5))  # type: tuple[list[float], ...]
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), keep=1)
        for number in range(options.repeats):
            copies.append(seconds(lambda: [tensor.clone() for tensor in tensors]))
            quiet.append(seconds(step))
            draft, started = store.begin(number), time.perf_counter()
            pauses.append(seconds(lambda draft=draft: engine.save_checkpoint(draft)))
            beside.append(seconds(step))
            while not engine.is_saved():
                time.sleep(0.01)
            store.commit(number, {})
            writings.append(time.perf_counter() - started)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"{size / 1e9:.2f} GB, ZeRO {options.zero_stage}, medians of {options.repeats}\n")
    rows = [
        ("copy", copies),
        ("pause", pauses),
        ("written", writings),
        ("step without writing", quiet),
        ("step beside it", beside),
    ]
    print(table(("", "seconds"), [(name, median(times)) for name, times in rows]))
    print(f"\npause / copy: {median(a / b for a, b in zip(pauses, copies, strict=True)):.2f} (target at most 1.2)")


if __name__ == "__main__":
    main()
