"""Data that crosses a boundary: the event, the predicates, the aggregates, the names of the keys.

Pure data. Imports msgspec and the standard library only.
"""
