"""Actors of gpu.nvidia.com: one module per kind of hardware change."""
