"""`python -m tfrs_twotower.cli` is `twotower`."""

import sys

from tfrs_twotower.cli import main

if __name__ == "__main__":
    sys.exit(main())
