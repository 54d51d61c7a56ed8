"""The API server: calls, list and watch."""
