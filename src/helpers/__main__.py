"""Check the set-up: ``python -m helpers``."""

import sys

from helpers.environment import check

sys.exit(0 if check() else 1)
