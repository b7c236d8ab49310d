"""Parts of a training: plans, callbacks, mined negatives, several workers, warm starts."""
