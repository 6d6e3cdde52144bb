"""`python -m crashfold.engine.settings` prints docs/settings.md."""

import sys

from crashfold.engine.settings import markdown

sys.stdout.write(markdown())
