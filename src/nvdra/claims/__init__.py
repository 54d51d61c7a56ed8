"""A ResourceClaim against this node: match, plan, seal."""
