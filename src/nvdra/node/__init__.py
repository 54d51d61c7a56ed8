"""The driver-neutral part of a kubelet plugin: checkpoint, claims, steps, sweep, publication."""
