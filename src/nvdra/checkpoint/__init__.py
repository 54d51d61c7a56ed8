"""The record on disk: codec, checksum, boot-id rule."""
