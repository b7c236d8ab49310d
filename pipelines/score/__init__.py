"""Batch jobs on exported models: recommendations of queries, embeddings of either side."""
