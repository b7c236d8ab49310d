"""How far two samples are apart, and how far chance alone takes two samples of one population.

Both samples are counted by groups of users, and the noise of a distance is what it is between two
samples of their sizes that are both drawn from all groups together (a Poisson bootstrap of the
pool). Whole users are drawn, because the events of one resemble each other. Where both samples have
the same users, the noise level is too large, not too small.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# total_variation: half the sum of the absolute differences, the share that would have to move.
# kolmogorov_smirnov: the largest difference of the cumulative distributions, over ordered cells.
# increase: by how much the share of the last cell grew.
Distance = Literal["total_variation", "kolmogorov_smirnov", "increase"]

NUM_RESAMPLES = 1000
# Of a sample: resamples of fewer groups say little about the tail of a distribution.
MIN_GROUPS = 20
# The bootstrap understates the noise of cells that hold hardly any events.
MIN_CELL = 20
BLOCK_ELEMENTS = 4_000_000


class Measure(NamedTuple):
    """Something that both samples were asked, counted alike.

    Attributes:
        name: The feature, or what else is counted.
        what: What of it: "values", "length", "missing", "unknown", ...
        distance: How two distributions are compared.
        a: `[num_groups, width, num_cells]` counts of the first sample. The distance is the largest
            of the `width` distributions, such as the coordinates of a vector.
        b: Likewise of the second, the same cells.
        cells: `[width][num_cells]` what the cells are, for messages; empty: they have no names.
    """

    name: str
    what: str
    distance: Distance
    a: Counts
    b: Counts
    cells: tuple[tuple[str, ...], ...] = ()


class Difference(NamedTuple):
    """A measure, compared.

    Attributes:
        name: See `Measure`.
        what: See `Measure`.
        kind: The kind of the distance.
        a: The share of the first sample, where a measure is a share.
        b: Likewise of the second.
        distance: From 0 to 1; None where a sample has no value.
        noise: What chance alone exceeds, in any of the measures together, with probability `level`;
            None where the users are too few to tell.
        largest: Where the two differ most, with the shares there of the first and the second.
    """

    name: str
    what: str
    kind: Distance
    a: float | None
    b: float | None
    distance: float | None
    noise: float | None
    largest: str | None = None

    @property
    def is_drift(self) -> bool:
        """Whether the distance is more than chance explains."""
        if self.distance is None or self.noise is None:
            return False
        return self.distance > self.noise

    @property
    def change(self) -> str:
        """Where the two differ most, or their shares."""
        if self.largest is not None:
            return self.largest
        return "" if self.a is None or self.b is None else f"{self.a:.1%} to {self.b:.1%}"


def compare(measures: list[Measure], *, level: float, seed: int) -> list[Difference]:
    """Compares two samples by all measures.

    Args:
        measures: All with the same groups.
        level: Probability that two samples of one population are found to differ in any of the
            measures: the noise levels are those of the largest of them (max-T, Westfall and Young,
            Resampling-Based Multiple Testing, 1993).
        seed: Of the resamples.
    """
    generator = np.random.default_rng(seed)
    moved = {number: _moved(measure, generator) for number, measure in enumerate(measures)}
    told = {number: values for number, values in moved.items() if values is not None}
    noise: dict[int, float] = {}
    if told:
        values = np.stack(list(told.values()))
        means, deviations = values.mean(axis=1), values.std(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.nan_to_num((values - means[:, np.newaxis]) / deviations[:, np.newaxis])
        factor = float(np.quantile(z.max(axis=0), 1 - level))
        noise = dict(zip(told, (means + factor * deviations).tolist(), strict=True))
    return [_difference(measure, noise.get(number)) for number, measure in enumerate(measures)]


def with_rare_cells_merged(measure: Measure) -> Measure:
    """The measure with the cells of fewer than `MIN_CELL` events added to cell 0."""
    is_rare = (measure.a + measure.b).sum(axis=(0, 1)) < MIN_CELL
    is_rare[0] = False
    return measure._replace(
        a=_without(measure.a, is_rare),
        b=_without(measure.b, is_rare),
        cells=tuple(
            tuple(name for name, rare in zip(names, is_rare, strict=True) if not rare)
            for names in measure.cells
        ),
    )


def _without(counts: Counts, is_rare: npt.NDArray[np.bool_]) -> Counts:
    kept = counts[..., ~is_rare].copy()
    kept[..., 0] += counts[..., is_rare].sum(axis=-1)
    return kept


def _moved(measure: Measure, generator: np.random.Generator) -> Floats | None:
    """`[NUM_RESAMPLES]` distances that chance alone gives; None where that cannot be told."""
    sizes = [counts.sum(axis=(1, 2)) for counts in (measure.a, measure.b)]
    if any((of_groups > 0).sum() < MIN_GROUPS for of_groups in sizes):
        return None
    pool = np.concatenate([measure.a, measure.b])
    flat = pool.reshape(len(pool), -1).astype(np.float64)
    # Of a group, the expectation of each resample; the two add up to the pool.
    rates = [of_groups.sum() / np.concatenate(sizes).sum() for of_groups in sizes]
    found = []
    block = max(BLOCK_ELEMENTS // pool[0].size, 1)
    for start in range(0, NUM_RESAMPLES, block):
        num = min(block, NUM_RESAMPLES - start)
        of_a, of_b = (
            _shares(
                (generator.poisson(rate, [num, len(pool)]) @ flat).reshape(num, *pool.shape[1:])
            )
            for rate in rates
        )
        found.append(_distances(of_b - of_a, measure.distance))
    return np.concatenate(found)


def _difference(measure: Measure, noise: float | None) -> Difference:
    name, what, kind, a, b, cells = measure
    if not (a.any() and b.any()):
        return Difference(name, what, kind, None, None, None, None)
    shares_a, shares_b = _shares(a.sum(axis=0)), _shares(b.sum(axis=0))
    distance = float(_distances((shares_b - shares_a)[np.newaxis], kind)[0])
    is_share = what not in ("values", "length")
    return Difference(
        name,
        what,
        kind,
        float(shares_a[0, -1]) if is_share else None,
        float(shares_b[0, -1]) if is_share else None,
        distance,
        noise,
        _largest(shares_a, shares_b, kind, cells) if cells and distance else None,
    )


def _largest(a: Floats, b: Floats, kind: Distance, cells: tuple[tuple[str, ...], ...]) -> str:
    if kind == "kolmogorov_smirnov":
        a, b = np.cumsum(a, axis=-1), np.cumsum(b, axis=-1)
    row, cell = np.unravel_index(np.argmax(np.abs(b - a)), a.shape)
    return f"{cells[row][cell]}: {a[row, cell]:.1%} to {b[row, cell]:.1%}"


def _shares(counts: npt.NDArray[np.generic]) -> Floats:
    """Counts `[..., num_cells]` as shares of their sum."""
    totals = counts.sum(axis=-1, keepdims=True)
    return np.asarray(counts / np.maximum(totals, 1), np.float64)


def _distances(differences: Floats, kind: Distance) -> Floats:
    """Distances `[n]` of the differences `[n, width, num_cells]` of two distributions."""
    if kind == "total_variation":
        of_each = np.abs(differences).sum(axis=-1) / 2
    elif kind == "kolmogorov_smirnov":
        of_each = np.abs(np.cumsum(differences, axis=-1)).max(axis=-1)
    else:
        of_each = np.maximum(differences[..., -1], 0.0)
    return np.asarray(of_each.max(axis=-1), np.float64)
