"""Lists of text that a server may have filled up, told from those that the caller sent.

TF Serving merges requests into one run, and with `pad_variable_length_inputs` fills the shorter
lists up with the *first element* of their own tensor: `["a", "b"]` beside a longer list becomes
`["a", "b", "a", "a"]`, a history that ends with its oldest candidate. A list that starts with "" is
filled with "", which is ignored anywhere; our clients send such lists. Of the others a signature
cannot tell what was sent, where a row ends as it, or an earlier row, begins: these it refuses.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from tfrs_twotower.index.control_flow import rarely

Tensors = Mapping[str, tf.Tensor]

# Has a column in the answer for each of its own: what is filled up is an answer too many, no wrong
# one.
CANDIDATE_IDS = "candidate_ids"


def refusing_filled_lists(
    function: Callable[[Tensors], dict[str, tf.Tensor]], inputs: Mapping[str, tf.TensorSpec]
) -> Callable[[Tensors], dict[str, tf.Tensor]]:
    """The function of a signature, with the check of its lists before it.

    Args:
        function: Inputs by name -> outputs by name.
        inputs: All of them, by name. Lists are those of text `[batch, n]`, n any number.

    Returns:
        The same; fails with `InvalidArgumentError` when it is run with a batch in which a list may
        have been filled up. One query alone is never refused: a server had nothing to merge.
    """
    names = [name for name, spec in inputs.items() if name != CANDIDATE_IDS and _is_list(spec)]

    def checked(given: Tensors) -> dict[str, tf.Tensor]:
        lists = {name: given[name] for name in names}
        num_rows = tf.reduce_max(tf.stack([tf.shape(values)[0] for values in lists.values()]))
        culprits = tf.cond(
            num_rows > 1, rarely(lambda: _filled(lists)), lambda: tf.constant("", tf.string)
        )
        message = "a row ends as it, or an earlier one, begins: a server that merges requests may "
        message += 'have filled it up; start every list with "", lists:'
        check = tf.raw_ops.Assert(condition=culprits == "", data=[message, culprits])
        with tf.control_dependencies([check]):
            return function({**given, **{name: tf.identity(x) for name, x in lists.items()}})

    return checked if names else function


def _is_list(spec: tf.TensorSpec) -> bool:
    return spec.dtype == tf.string and spec.shape.rank == 2 and spec.shape[1] is None


def _filled(lists: Tensors) -> tf.Tensor:
    """Names of the lists of which a row may have been filled up; "" where there is none."""

    def looked_for() -> tf.Tensor:
        found = tf.stack([_may_be_filled(values) for values in lists.values()])
        return tf.strings.reduce_join(tf.boolean_mask(list(lists), found), separator=", ")

    # Where all start with "", as those of our clients do, that is all there is to know.
    firsts = tf.concat([tf.reshape(values[:, :1], [-1]) for values in lists.values()], axis=0)
    return tf.cond(
        tf.reduce_any(firsts != ""), rarely(looked_for), lambda: tf.constant("", tf.string)
    )


def _may_be_filled(rows: tf.Tensor) -> tf.Tensor:
    """Whether a row ends with the text that begins it or an earlier row, bool scalar.

    The first row of the request that a row came with is one of those.
    """
    num_rows = tf.shape(rows)[0]
    # The text of each row at either end: "" where it has none.
    first = tf.strings.reduce_join(rows[:, :1], axis=1)
    last = tf.strings.reduce_join(rows[:, 1:][:, -1:], axis=1)
    texts, numbers = tf.unique(tf.concat([first, last], axis=0))
    places = tf.range(num_rows)
    earliest = tf.math.unsorted_segment_min(places, numbers[:num_rows], tf.size(texts))
    begins_before = tf.gather(earliest, numbers[num_rows:]) <= places
    return (num_rows > 1) & tf.reduce_any((last != "") & begins_before)
