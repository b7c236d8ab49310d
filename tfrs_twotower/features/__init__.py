"""Raw values -> encoded values -> one dense vector: the same TensorFlow ops in every part."""
