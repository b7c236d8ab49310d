"""Raw values -> encoded values -> one dense vector: the same TensorFlow ops in every part.

* `encoding`: raw values -> rows and numbers, `Encoder`; the pipeline's and the served models' ops.
* `raw_inputs`: tables of a models folder, and single queries -> raw tensors.
* `dense`: encoded values -> the vector that a tower reads, `DenseFeatures`.
* `history_encoders`: GRU and attention over a history.
* `history_candidates`: the features that a history's candidates have beside their ids.
* `dropout`, `seeds`: randomness that is the same after a resume.

Nothing is imported here: the pipeline's workers need `encoding` alone, without Keras.
"""
