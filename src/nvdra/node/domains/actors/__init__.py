"""One module for each kind of step of compute-domain.nvidia.com."""
