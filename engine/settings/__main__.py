"""`python -m engine.settings` prints docs/settings.md."""

import sys

from engine.settings import markdown

sys.stdout.write(markdown())
