"""The grid of candidates: covariance types by numbers of components, and how a search extends it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.outcomes import Outcome


def check_candidates(n_components: int | Iterable[int], covariance_types: str | Iterable[str]) -> list[Candidate]:
    """Return every combination of covariance type and number of components once.

    Raises
    ------
    UserError
        If a number is not a positive integer, a covariance type is unknown, or either is empty.
    """
    counts = list(dict.fromkeys(n_components if isinstance(n_components, Iterable) else [n_components]))
    bad = [k for k in counts if not isinstance(k, Integral) or k < 1]
    if bad or not counts:
        raise UserError(f"n_components must hold integers of at least 1; got {bad or 'none'}.")
    names = [covariance_types] if isinstance(covariance_types, str) else covariance_types
    types = list(dict.fromkeys(get_family(name).name for name in names))
    if not types:
        raise UserError(f"covariance_types must name at least one of {', '.join(FAMILIES)}; got none.")
    return [Candidate(name, int(k)) for name, k in itertools.product(types, counts)]


def generator_copies(random_state: Any) -> Callable[[], np.random.RandomState]:
    """Return a source of equal generators, so that a candidate's starts do not depend on the other candidates."""
    from sklearn.utils import check_random_state  # a plan of a job takes the grid alone

    if random_state is None:  # NumPy's global generator must advance, or every search would draw the same numbers
        random_state = check_random_state(None).randint(2**31 - 1)
    original = copy.deepcopy(check_random_state(random_state))
    return lambda: copy.deepcopy(original)


@dataclass(frozen=True)
class GridExtension:
    """The next step of a search that extends its grid.

    Attributes
    ----------
    candidates : list of Candidate
        To be fitted next; empty if the winner lies inside the grid, or the grid cannot be extended.
    stopped : str
        Why there are none although the winner lies at an end of the grid; empty otherwise.
    """

    candidates: list[Candidate] = field(default_factory=list)
    stopped: str = ""


def extend_grid(candidates: Sequence[Candidate], winner: Candidate, trusted: bool, n_rows: int) -> GridExtension:
    """Return the candidates to add to a grid so that its winner no longer lies at an end of it.

    Parameters
    ----------
    candidates : sequence of Candidate
        The grid so far.
    winner : Candidate
    trusted : bool
        Whether the winner's status is trusted.
    n_rows : int
        No candidate has more components than there are rows.
    """
    counts = sorted({candidate.n_components for candidate in candidates})
    k = winner.n_components
    if k != counts[-1] and not k == counts[0] > 1:
        return GridExtension()
    if not trusted:
        return GridExtension(stopped="no candidate can be trusted")
    further = further_counts(counts, k, n_rows)
    if not further:
        return GridExtension(stopped=f"there are only {n_rows:,} rows")
    types = dict.fromkeys(candidate.covariance_type for candidate in candidates)
    return GridExtension([Candidate(name, count) for name, count in itertools.product(types, further)])


def further_counts(counts: Sequence[int], k: int, most: int) -> list[int]:
    """Return numbers of components beyond the end of the grid at which ``k`` lies.

    There are half as many as the grid has, in the stride of that end.

    Parameters
    ----------
    counts : sequence of int
        Those of the grid, ascending.
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
    """Sort outcomes as a grid lists them: by covariance type, then by number of components."""
    given = list(outcomes)
    types = list(dict.fromkeys(outcome.state.covariance_type for outcome in given))
    return sorted(given, key=lambda outcome: (types.index(outcome.state.covariance_type), outcome.state.n_components))
