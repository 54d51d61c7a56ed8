"""What gpu-kubelet-plugin does beside the neutral node: discovery, edits, publication of GPUs, actors of its steps."""
