"""`python -m pipelines.recommend`: recommend in batch, see `pipelines.score.recommend`."""

import sys

from pipelines.score.recommend import main, recommend

__all__ = ["recommend", "main"]

if __name__ == "__main__":
    sys.exit(main())
