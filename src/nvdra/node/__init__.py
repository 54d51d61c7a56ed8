"""What both kubelet plugins share: ledger, executor, sweep, publication."""
