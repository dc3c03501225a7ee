"""Configuration: the schema, its loading with file and line, and the rules that a run must keep."""

from zj_ray.config.dump import dump_config, explain
from zj_ray.config.load import load_config
from zj_ray.config.schema import Config

__all__ = ["Config", "dump_config", "explain", "load_config"]
