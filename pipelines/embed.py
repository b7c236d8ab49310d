"""`python -m pipelines.embed`: embed in batch, see `pipelines.score.embed`."""

import sys

from pipelines.score.embed import embed, main

__all__ = ["embed", "main"]

if __name__ == "__main__":
    sys.exit(main())
