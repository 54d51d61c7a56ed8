"""This node: driver root, device nodes, locks, durable files, child processes."""
