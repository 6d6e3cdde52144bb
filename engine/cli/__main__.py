"""`python -m engine.cli`: the same as `crashfold`."""

from engine.cli.start import main

main()
