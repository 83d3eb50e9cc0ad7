"""Where a search goes on when its winner lies at an end of the grid: more numbers of components, or fewer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.criteria import Outcome


class Widening(NamedTuple):
    """What a grid goes on with.

    Attributes
    ----------
    candidates : list of (covariance_type, n_components)
        To be fitted next; empty if the grid is wide enough, or cannot be widened.
    stopped : str
        Why there are none although the winner lies at an end of the grid; empty otherwise.
    """

    candidates: list[Candidate]
    stopped: str = ""


def widen(candidates: Sequence[Candidate], winner: Candidate, trusted: bool, n_rows: int) -> Widening:
    """What a grid goes on with, so that its winner does not lie at an end of it.

    Parameters
    ----------
    candidates : sequence of (covariance_type, n_components)
        The grid so far.
    winner : (covariance_type, n_components)
    trusted : bool
        Whether the winner's status is.
    n_rows : int
        No candidate has more components than there are rows.
    """
    counts = sorted({k for _, k in candidates})
    k = winner[1]
    if k != counts[-1] and not k == counts[0] > 1:
        return Widening([])
    if not trusted:
        return Widening([], "no candidate can be trusted")
    further = further_counts(counts, k, n_rows)
    kinds = dict.fromkeys(kind for kind, _ in candidates)
    return Widening(list(itertools.product(kinds, further)), "" if further else f"there are only {n_rows:,} rows")


def further_counts(counts: Sequence[int], k: int, most: int) -> list[int]:
    """Numbers of components beyond the end at which ``k`` lies, half as many as there are, in the stride of that end.

    Parameters
    ----------
    counts : sequence of int
        Those that there are, ascending.
    k : int
        The winner's.
    most : int
        The largest number that makes sense.
    """
    steps = range(1, max(1, len(counts) // 2) + 1)
    more: set[int] = set()
    if k == counts[-1]:
        more |= {k + i * _stride(counts[-2:]) for i in steps}
    if k == counts[0]:
        more |= {max(1, k - i * _stride(counts[:2])) for i in steps}
    return sorted(n for n in more if n != k and n <= most)


def _stride(counts: Sequence[int]) -> int:
    return counts[-1] - counts[0] or 1


def in_grid_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Outcomes in the order of a grid asked for at first: by covariance type, then by number of components."""
    given = list(outcomes)
    kinds = list(dict.fromkeys(outcome.state.covariance_type for outcome in given))
    return sorted(given, key=lambda outcome: (kinds.index(outcome.state.covariance_type), outcome.state.n_components))
