"""A real control plane, kubelet and containerd on one machine, and the plugin serving pods on it."""
