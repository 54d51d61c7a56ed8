"""What every kubelet plugin does on its node, for any driver: checkpoint, claims, steps, sweep, publication."""
