"""The programs: each wires the parts of the other packages together."""
