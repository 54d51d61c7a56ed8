"""One IMEX daemon of a ComputeDomain: its place in the clique, its files, its process."""
