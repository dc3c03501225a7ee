"""The sections of a run's file, each a frozen dataclass, and what stands on every key of them."""
