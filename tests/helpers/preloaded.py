"""What a rank imports before it can begin, imported once: the fork server of `ranks` loads this, ranks are forks."""

from __future__ import annotations

import gc

import tests.helpers.heavy  # noqa: F401
import zj_ray.roles.critic  # noqa: F401
import zj_ray.roles.policy  # noqa: F401

gc.freeze()
