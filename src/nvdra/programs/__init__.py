"""Programs: tables of parts wired together."""
