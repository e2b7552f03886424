"""``python -m minicaps``."""

import sys

from minicaps.cli import main

sys.exit(main())
