"""Fakes held to the real thing: FakeHost, FakeKube, VirtualClock. The product imports nothing of this."""
