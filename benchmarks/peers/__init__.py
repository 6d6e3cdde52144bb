"""Side by side with what a user would pick instead: every peer does the same job, each in an environment of its own.

`make bench-peers` sets them up, runs them and prints one table. The job and the form of its result are in `job.py`,
the state that user code holds in `tally.py`, `plain_fold.py` and `column_fold.py`, the peers in `catalogue.py`, their
programs in `programs/`. What a peer's process imports needs msgspec, numpy and redis only, never the project's own
fold or engine.
"""
