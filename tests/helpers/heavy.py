"""What every rank and engine imports before it can begin and takes long, but Ray, which reads its environment then."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as zero_engine sets it: DeepSpeed looks when it is imported

import deepspeed.runtime.engine  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401 (an optimizer brings it in)
import transformers.models.llama.modeling_llama  # noqa: E402, F401

import zj_ray.training.model  # noqa: E402, F401
import zj_ray.training.zero_engine  # noqa: E402, F401

gc.freeze()  # a fork that collects garbage would copy every page of what is imported here
