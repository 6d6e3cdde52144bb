"""Precomputed analytics for crash games: Kafka in, exactly-once aggregates in Redis out.

`engine`, `projections` and `schemas` here are links to the folders of the same names at the top of the repository, so
that they are imported as `crashfold.engine`, `crashfold.projections` and `crashfold.schemas`, and an installed
Crashfold takes one name in site-packages.
"""
