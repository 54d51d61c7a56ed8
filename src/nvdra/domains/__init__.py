"""Rules of ComputeDomains: who is a member with which index, what status that is, which objects a domain needs."""
