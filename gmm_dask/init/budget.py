"""How much the search of ``init_params="auto"`` tries, and what memory its fits take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gmm_dask.em.acceleration import ORDER
from gmm_dask.em.loop import Settings
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate


@dataclass(frozen=True)
class SearchBudget:
    """The tuned numbers of the search: what it tries, how often, and when it stops.

    ``benchmarks/optima.py`` measured them together, as the share of fits that reach the best known optimum and the
    seconds of everything; ``docs/decisions/0005-search-for-starts.md`` has the figures. Where a field was also
    measured by itself, its comment says so.
    """

    # -- the whole. A candidate's fits stop when they have added up so many numbers: 1 to 7 s on a core, which adds up
    # 3 to 18 a nanosecond (few and many components). It is a number and not a time, so that the same seed gives the
    # same starts on every machine
    numbers_per_candidate: int = 20_000_000_000
    # the runs from clusterings may take so many times that; where they would take more, as with full covariances of
    # 1,000 columns, k-means alone leads to the start
    first_runs: int = 4

    # -- the subsample. At least this many rows; and this many for each number of the largest candidate's means, so
    # that its components have a shape, as long as a pass adds up no more than so many numbers
    subsample_rows: int = 8192
    rows_per_mean_value: int = 20
    pass_numbers: int = 100_000_000
    # the best fits go through this many times the rows, before they go through the whole sample: which is worth its
    # passes only where a pass over all rows costs more than so many times as much
    second_subsample: int = 8
    whole_sample_ratio: int = 4

    # -- short runs. More clusterings of each kind at the beginning found nothing for their time
    clusterings: int = 2
    # iterations after which only the best proposals for a candidate are retained
    screening: int = 5
    # iterations of the run that follows, and of that on each larger subsample
    short_run: int = 25
    tol: float = 1e-5
    # of k-means' fits, and after the last round. More iterations were worth less than their time
    last_run: int = 200
    last_tol: float = 1e-7
    # fits of a candidate that are retained. Moves are made from the best alone: moves from the others as well were
    # worth less than their time
    retained: int = 2

    # -- moves. Splits and merges that are proposed from a fit; more of each kind were worth less than their time
    splits: int = 6
    merges: int = 4
    rounds: int = 20
    # how often a fit is moved from: see gmm_dask.init.auto._n_tries. Moves drawn for the third time or later improved
    # 3 % of the fits of the largest candidates and of full covariances, 0.4 % of the others
    tries: int = 3
    max_changes: int = 3
    components_per_try: int = 5
    # mean log-likelihoods closer than this are one optimum ...
    same_optimum: float = 1e-5
    # ... and a best fit that differs by more than this is another one, not the same a few iterations later
    change: float = 1e-4

    # -- restarts. A search may get caught where an independent one does not: with few rows a second one finds nearly
    # all that the first misses, at twice the time. So there are two where a pass of one fit of each candidate adds up
    # no more numbers than this, a few milliseconds' work
    restarts: int = 2
    restart_work: int = 3_000_000

    # -- rare groups. Of all rows so many are looked at, of which the densest groups become components, beside those of
    # fits of one component less, or after one of so many mergers. Of a million normal rows in 4 columns, 512 lie
    # farther out than some 5 standard deviations
    least_likely: int = 512
    rare_groups: int = 3
    rare_merges: int = 2

    # -- computing. Responsibilities up to this are left out of the statistics that a fit only begins from: with 50
    # features the search takes 15 % less time, and finds the same fits
    negligible: float = 1e-6
    # fits run together in batches of so many bytes
    batch_bytes: int = 32 << 20
    # fits of more parameters are not accelerated: the history would take many times their memory
    accelerated_values: int = 4096

    def n_rows(self, candidates: Sequence[Candidate], n_features: int) -> int:
        """Return how many rows the subsample has, of data with enough."""
        most = max(candidate.n_components for candidate in candidates)
        numbers = max(pass_work([candidate], 1, n_features) for candidate in candidates)
        wanted = min(self.rows_per_mean_value * most * n_features, self.pass_numbers // numbers)
        return max(self.subsample_rows, wanted)

    def affords_search(
        self, candidates: Sequence[Candidate], n_rows: int, n_features: int, effort: float = 1.0
    ) -> bool:
        """Return whether more than k-means is affordable: the runs from clusterings, of data with so many rows."""
        n_rows = min(n_rows, self.n_rows(candidates, n_features))
        runs = 3 * self.clusterings * self.screening + self.retained * self.short_run
        affordable = self.first_runs * effort * self.numbers_per_candidate * len(candidates)
        return runs * pass_work(candidates, n_rows, n_features) <= affordable

    def long_run(self, candidates: Sequence[Candidate], shape: tuple[int, ...], work: Work) -> Settings:
        """Return the settings of a run to convergence: over rows of this shape it may take a tenth of what is left."""
        affordable = 0.1 * work.left / pass_work(candidates, *shape)
        return Settings(self.last_tol, int(min(self.last_run, max(self.short_run, affordable))))

    def is_accelerated(self, candidate: Candidate, n_features: int) -> bool:
        """Whether a candidate's fits are accelerated."""
        return _n_values(candidate, n_features) <= self.accelerated_values

    def fit_bytes(self, candidate: Candidate, n_features: int) -> int:
        """Return the memory of one fit: parameters and factors before and after a step, statistics, and history."""
        values = _n_values(candidate, n_features)
        history = 2 * (ORDER + 1) * values if self.is_accelerated(candidate, n_features) else 0
        return 8 * (6 * values + history)

    def n_restarts(self, candidates: Sequence[Candidate], n_rows: int, n_features: int) -> int:
        """Return how many independent searches over a subsample of so many rows each start is the best of."""
        return self.restarts if pass_work(candidates, n_rows, n_features) <= self.restart_work else 1

    def search_bytes(
        self, candidates: Sequence[Candidate], n_rows: int, n_features: int, n_init: int, n_threads: int
    ) -> int:
        """Return the memory of all fits: those that run, those on the shortlists, and the starts found before."""
        sizes = [self.fit_bytes(candidate, n_features) for candidate in candidates]
        waiting = 2 * self.retained * self.n_restarts(candidates, n_rows, n_features)
        # a thread fits in arrays of its own: the mixture and its factors on both sides, and before and after a step,
        # coefficients and sums
        working = n_threads * 8 * 8 * max(_n_values(candidate, n_features) for candidate in candidates)
        return max(self.batch_bytes, *sizes) + working + (waiting + n_init - 1) * sum(sizes)


BUDGET = SearchBudget()


def searched_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates of a search for starts: those asked for, and neighbours of a lone one.

    Fits of one component less and one more lead to it by splits and merges. A lone fit of one component has a single
    optimum, and needs no others.
    """
    if len(candidates) != 1 or candidates[0].n_components == 1:
        return list(candidates)
    (alone,) = candidates
    return [alone._replace(n_components=alone.n_components + more) for more in (-1, 0, 1)]


class Work:
    """What a search may still do, in numbers that passes over rows in memory add up."""

    def __init__(self, numbers: float) -> None:
        self.left = numbers

    def spend(self, candidate: Candidate, shape: tuple[int, ...], n_passes: int) -> None:
        """Count passes of one fit each over rows of this shape."""
        self.left -= n_passes * pass_work([candidate], *shape)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0


def pass_work(candidates: Iterable[Candidate], n_rows: int, n_features: int) -> int:
    """Return how many numbers a pass over rows in memory adds up, with one fit of each candidate."""
    columns = [(get_family(one.covariance_type).in_memory_columns(n_features), one.n_components) for one in candidates]
    return n_rows * sum(k * int(mine.stop - mine.start) for mine, k in columns)


def _n_values(candidate: Candidate, n_features: int) -> int:
    """Return the number of weights, means and covariances of a candidate."""
    k, family = candidate.n_components, get_family(candidate.covariance_type)
    return k * (n_features + 1) + math.prod(family.covariance_shape(k, n_features))
