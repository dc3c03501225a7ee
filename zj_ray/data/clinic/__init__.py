"""The synthetic clinic: 14 departments of 8 conditions each, made into data for every stage. Not medical advice."""

from zj_ray.data.clinic.clinic import write_clinic

__all__ = ["write_clinic"]
