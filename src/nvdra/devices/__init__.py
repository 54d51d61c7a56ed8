"""What a node has, and what is published of it."""
