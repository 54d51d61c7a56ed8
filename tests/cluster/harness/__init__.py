"""What stands a cluster up in namespaces of its own, and takes it down without a trace."""
