"""compute-domain.nvidia.com on a node: its view of the node, its edits, its upkeep."""
