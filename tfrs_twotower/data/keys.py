"""Keys of a training batch beside the names of features and those of the prepared folder."""

CANDIDATE_LOG_Q = "candidate_log_q"
KNOWN_POSITIVES = "known_positives"
# Prefixes of the keys of negatives; no feature's name has a slash.
UNIFORM, OWN = "uniform_negatives/", "own_negatives/"
