"""`python -m pipelines.prepare`."""

import sys

from pipelines.prepare.pipeline import main

if __name__ == "__main__":
    sys.exit(main())
