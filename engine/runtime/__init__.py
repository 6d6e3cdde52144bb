"""The running parts: the fold and commit, the service, rebuild, verify, status."""
