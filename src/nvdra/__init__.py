"""The DRA Driver for NVIDIA GPUs: Kubernetes hands out GPUs and multi-node NVLink through it."""

__version__ = "0.5.0"
