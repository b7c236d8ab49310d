"""The towers, the two-tower model, and the run folder that keeps one."""
