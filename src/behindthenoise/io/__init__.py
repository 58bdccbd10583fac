"""Stores, source files, checkpoints and records: everything that touches a disk."""
