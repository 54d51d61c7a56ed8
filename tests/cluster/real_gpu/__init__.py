"""The real cluster on a machine with real NVIDIA GPUs and no network: what travels there, and what runs there."""
