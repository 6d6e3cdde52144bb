"""`python -m crashfold.engine.cli`: the same as `crashfold`."""

from crashfold.engine.cli.start import main

main()
