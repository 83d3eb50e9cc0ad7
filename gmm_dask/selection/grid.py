"""The grid of candidates: covariance types by numbers of components, and how a search extends it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.families import MCLUST, NAMES, family_names
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.outcomes import Outcome


def check_candidates(
    n_components: int | Iterable[int], covariance_types: str | Iterable[str], noise: Iterable[bool] = (False,)
) -> list[Candidate]:
    """Return every combination of covariance type, noise and number of components once.

    Raises
    ------
    UserError
        If a number is not a positive integer, a covariance type is unknown, or either is empty.
    """
    counts = list(dict.fromkeys(n_components if isinstance(n_components, Iterable) else [n_components]))
    bad = [k for k in counts if not isinstance(k, Integral) or k < 1]
    if bad or not counts:
        raise UserError(f"n_components must hold integers of at least 1; got {bad or 'none'}.")
    types = list(dict.fromkeys(family_names(covariance_types)))
    if not types:
        raise UserError(f"covariance_types must name at least one of {', '.join((*NAMES, MCLUST))}; got none.")
    kinds = itertools.product(types, dict.fromkeys(noise))
    return [Candidate(name, int(k), beside) for (name, beside), k in itertools.product(kinds, counts)]


def noise_choices(noise: Any) -> tuple[list[bool], float | None]:
    """Read the parameter ``noise``: True, False, a volume, or a list of True and False.

    Returns
    -------
    choices : list of bool
        Whether candidates have noise: one answer, or both.
    log_volume : float or None
        Natural logarithm of the volume that is given; None where it is that of the box around the rows.

    Raises
    ------
    UserError
        If a list holds anything but True and False, or nothing.
    """
    if isinstance(noise, Real) and not isinstance(noise, bool | np.bool_):
        return [True], math.log(noise)
    choices = list(noise) if isinstance(noise, Iterable) else [noise]
    if not choices or not all(isinstance(choice, bool | np.bool_) for choice in choices):
        raise UserError(
            f"noise must be True, False, a volume, or a list of True and False, such as [False, True]; got {noise!r}."
        )
    return [bool(choice) for choice in choices], None


def generator_copies(random_state: Any) -> Callable[[], np.random.RandomState]:
    """Return a source of equal generators, so that a candidate's starts do not depend on the other candidates."""
    if isinstance(random_state, Integral):  # a new one takes a tenth of the time of a copy
        return lambda: np.random.RandomState(int(random_state))
    from sklearn.utils import check_random_state  # it takes a second, and jobs have numbers

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
    kinds = dict.fromkeys(candidate._replace(n_components=further[0]) for candidate in candidates)
    return GridExtension([kind._replace(n_components=k) for kind, k in itertools.product(kinds, further)])


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
    """Sort outcomes as a grid lists them: by covariance type, noise, then number of components."""
    given = list(outcomes)
    types = list(dict.fromkeys(outcome.state.covariance_type for outcome in given))

    def place(outcome: Outcome) -> tuple[int, bool, int]:
        name, k, noise = outcome.state.candidate
        return types.index(name), noise, k

    return sorted(given, key=place)
