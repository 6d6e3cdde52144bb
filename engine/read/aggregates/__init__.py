"""One file an aggregate."""
