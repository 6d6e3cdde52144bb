"""Decisions on facts already read: pure functions, no I/O."""
