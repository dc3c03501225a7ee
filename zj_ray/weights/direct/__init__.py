"""Weights sent straight from the policy's ranks into the engines: NCCL between GPUs, CUDA IPC on one, gloo on CPUs."""
