"""The prepared folder, read into training batches.

* `prepared`: the folder, `PreparedData`: arrays of examples, the `Corpus`.
* `batches`: `training_batches`, a `tf.data.Dataset` of examples and their negatives.
* `training_batch`: the contents of a batch.
* `negatives`: how negatives are drawn.
* `history_windows`: how ordered histories are cut so that one pass trains on every position.
"""
