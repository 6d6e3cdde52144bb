"""Two projections for Crashfold."""
