"""vLLM's side of a weight sync: runs inside the engine's worker, next to the model (`worker_extension_cls`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zj_ray.weights.bucket import WeightManifest, unpack_weights


class WeightReceiver:
    """Mixed into vLLM's worker. `model_runner` is the worker's own."""

    model_runner: Any

    def receive_weights(self, manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> int:
        """Replace the model's weights; returns the version. `load_weights` alone would fail on CPU: weights are prepacked."""
        self.model_runner.reload_weights(weights_iterator=unpack_weights(manifest, buckets))
        self._repack_tied_head()
        return manifest.version

    def _repack_tied_head(self) -> None:
        """On CPU the packed lm_head keeps the old weights, silently, when it is tied to the embeddings."""
        from vllm.platforms import current_platform

        model = self.model_runner.model
        if current_platform.is_cpu() and getattr(model.config, "tie_word_embeddings", False):
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)
