"""Container edits and CDI documents."""
