"""``python -m minicaps``."""

import sys

from minicaps.cli import main

if __name__ == "__main__":
    sys.exit(main())
