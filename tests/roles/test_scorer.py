"""What the scorer measures of a causal LM, against transformers' own loss."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.helpers.tiny import MODEL, tiny_folder
from zj_ray.roles.scorer import ScorerRank
from zj_ray.training.model import load_causal_lm


def test_perplexity_is_a_token_mean_whatever_the_rows(tmp_path: Path) -> None:
    folder = str(tiny_folder(tmp_path / "lm"))
    random = np.random.default_rng(0)
    documents = [random.integers(0, 200, size=length) for length in (1, 2, 5, 30, 17, 40, 3, 60, 9)]
    model = load_causal_lm(folder, MODEL).eval()
    with torch.no_grad():
        losses = [
            float(model(torch.from_numpy(ids)[None], labels=torch.from_numpy(ids)[None]).loss) * (len(ids) - 1)
            for ids in documents
            if len(ids) > 1
        ]
    expected = math.exp(sum(losses) / sum(len(ids) - 1 for ids in documents))
    rank = ScorerRank(MODEL, seed=0, timeout=1.0)
    rank.engine = SimpleNamespace(engine=torch.nn.Identity(), device="cpu", rest=lambda: None)  # type: ignore[assignment]
    last = [np.arange(max(1, len(ids) - 2), len(ids)) for ids in documents]
    whole = [np.arange(1, len(ids)) for ids in documents]
    for capacity in (20, 64, 1000):
        assert rank.log_likelihoods(folder, documents, whole, capacity)[2] == pytest.approx(-losses[1], rel=1e-5)
        ends = rank.log_likelihoods(folder, documents, last, capacity)
        assert ends[0] == 0.0 and ends[1] == pytest.approx(-losses[0], rel=1e-5) and ends[3] > -losses[2]
        assert rank.perplexity(folder, documents, capacity) == pytest.approx(expected, rel=1e-5)
