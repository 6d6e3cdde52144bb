"""`python -m engine.cli`: the same as `crashfold`."""

from engine.cli.main import main

main()
