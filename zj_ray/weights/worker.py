"""vLLM's side of a weight sync: runs inside the engine's worker, next to the model (`worker_extension_cls`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from zj_ray.weights.bucket import Fingerprint, WeightManifest, unpack_weights


class WeightReceiver:
    """Mixed into vLLM's worker. `model_runner` is the worker's own."""

    model_runner: Any
    fingerprint: Fingerprint

    def receive_weights(self, manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> int:
        """Replace the model's weights; returns the version.

        `load_weights` alone would fail on CPU, where weights are prepacked.
        """
        self._drop_unfinished()
        self.model_runner.reload_weights(weights_iterator=unpack_weights(manifest, buckets))
        self._repack_tied_head()
        return manifest.version

    def start_transfer(self) -> None:
        """Weights are about to come through vLLM's weight-transfer API: note what the model is given."""
        self._drop_unfinished()
        model = self.model_runner.model
        self.fingerprint, load = Fingerprint(), model.load_weights

        def noted(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                self.fingerprint.add(name, tensor)
                yield name, tensor

        model.load_weights = lambda weights: load(noted(weights))
        self.start_weight_update()  # type: ignore[attr-defined]

    def finish_transfer(self) -> str:
        """End a transfer; returns the fingerprint of all that came."""
        self.finish_weight_update()  # type: ignore[attr-defined]
        del self.model_runner.model.load_weights  # the class's own again
        self._repack_tied_head()
        return self.fingerprint.hex()

    def _drop_unfinished(self) -> None:
        """End a transfer that broke off.

        vLLM would count what came of it towards the next weights, and lose their last ones for it.
        """
        model = self.model_runner.model
        if "load_weights" in vars(model):
            del model.load_weights
            self._weight_update_active = True  # a failed update has cleared it, but only an active one can be finished
            self.finish_weight_update()  # type: ignore[attr-defined]

    def _repack_tied_head(self) -> None:
        """On CPU the packed lm_head keeps the old weights, silently, when it is tied to the embeddings."""
        from vllm.platforms import current_platform

        model = self.model_runner.model
        if current_platform.is_cpu() and getattr(model.config, "tie_word_embeddings", False):
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)
