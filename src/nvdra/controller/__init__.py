"""The controller of ComputeDomains: a queue of domains, followed objects, one reconciler for each stage of a domain."""
