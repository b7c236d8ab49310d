"""The prepared folder, read into training batches."""
