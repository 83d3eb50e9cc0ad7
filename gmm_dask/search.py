"""The search: every number of components and covariance type at once, from the same reads of the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Self

from numpy.random import RandomState
from sklearn.exceptions import ConvergenceWarning

from gmm_dask.em import loop
from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.loop import State, Status
from gmm_dask.em.regularization import AUTO
from gmm_dask.errors import UserError
from gmm_dask.estimator import GaussianMixture, MixtureMethods
from gmm_dask.families import FAMILIES
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.starts import first_states
from gmm_dask.inputs import FIT_CONSTRAINTS, at_least, below_one, check_parameters, one_of, read_rows, sample_seed
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.rows import Rows, hold_out
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.diagnostics import remarks
from gmm_dask.selection.grid import GridExtension, check_candidates, extend_grid, generator_copies, in_grid_order
from gmm_dask.selection.outcomes import Outcome, by_candidate, choose, evaluate_states
from gmm_dask.selection.results import results_table


class GaussianMixtureSearch(MixtureMethods):
    """Choice of the number of components and the covariance type by a criterion.

    All candidates and all their starts take their statistics from the same read of the data; a candidate that has
    converged leaves. Each ends where a :class:`GaussianMixture` with the same settings would.

    Once fitted, the methods are those of the winner.

    Parameters
    ----------
    n_components : int or iterable of int, default=range(1, 10)
    covariance_types : str or iterable of str, default=('full', 'tied', 'diag', 'spherical')
    criterion : {'bic', 'aic', 'icl', 'held_out'}, default='bic'
        The criterion to minimise; see :data:`gmm_dask.selection.criteria.CRITERIA`. 'held_out' is -2 times the
        log-likelihood of the rows that ``held_out`` holds out; of the candidates within one standard error of the
        smallest, the one with the fewest parameters wins.
    n_init, init_params, tol, max_iter
        As in :class:`GaussianMixture`.
    reg_covar : float or 'auto', default='auto'
        As in :class:`GaussianMixture`, whose default is scikit-learn's.
    random_state : int, RandomState instance or None, default=None
        Every candidate starts from this seed, or from a copy of this generator.
    accelerate : bool, default=False
        As in :class:`GaussianMixture`.
    start_effort : float, default=1.0
        As in :class:`GaussianMixture`, for each candidate.
    held_out : float, default=0.0
        Fraction of the rows, 0 <= fraction < 1, that take no part in the fits and their criteria, and show how well
        the mixtures describe unseen rows. Which rows follows from the seed and each row's position, not from chunks;
        where a Dask collection's lengths are not known, from its partition and the position in it.
    extend : bool, default=False
        Whether to extend the grid as long as the winner has the most components of it, or the fewest and more than
        one: by half as many numbers of components as it has, in its own stride, for all covariance types. Only the
        new candidates are fitted; with ``init_params='auto'`` their starts are searched for without the others, so
        that they may end elsewhere than in a search that has the whole grid at first. It ends when the winner lies
        inside the grid, when no new candidate can be trusted, or at as many components as there are rows.

    Attributes
    ----------
    best_estimator_ : GaussianMixture
        The winner, fitted.
    best_params_ : dict
        Its ``n_components`` and ``covariance_type``.
    results_ : pandas.DataFrame
        One row per candidate, described by its best start, with the columns

        - n_components, covariance_type;
        - status: see :class:`gmm_dask.em.status.Status`;
        - bic, aic, icl, held_out: the criteria; held_out is NaN where no rows are held out;
        - delta, after bic: the search's criterion minus the smallest; NaN where a candidate may not win;
        - log_likelihood: total over the fitted rows;
        - held_out_log_likelihood: mean per held-out row;
        - held_out_error: standard error of the difference of held_out to the smallest, over the same rows;
        - n_parameters, n_iter;
        - slim_component, slim_gain, slim_price: of the components that are far narrower than the others and have few
          rows, the one that raises the log-likelihood least, by how much, and by how much it has to (see
          :func:`gmm_dask.em.spurious.least_gain`), numbered by weight, the largest being 0; -1 and NaN where there is
          none;
        - start: number of the best start;
        - starts, untrusted, agreed, spread, agreeing: how the starts compare, see
          :class:`gmm_dask.selection.diagnostics.Agreement`.
    remarks_ : list of str
        Reasons to doubt the choice: the winner is on the edge of the grid, fewer components do as well, or its starts
        disagree.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X has column names that are strings.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FIT_CONSTRAINTS,
        "n_components": [at_least(1), "array-like", range],
        "covariance_types": [one_of(FAMILIES), "array-like"],
        "criterion": [one_of(CRITERIA)],
        "max_iter": [at_least(1)],
        "held_out": [below_one()],
        "extend": ["boolean"],
    }

    def __init__(
        self,
        n_components: int | Iterable[int] = range(1, 10),
        covariance_types: str | Iterable[str] = tuple(FAMILIES),
        *,
        criterion: str = "bic",
        n_init: int = 1,
        init_params: str = "kmeans",
        tol: float = 1e-3,
        max_iter: int = 100,
        reg_covar: float | str = AUTO,
        random_state: Any = None,
        accelerate: bool = False,
        start_effort: float = 1.0,
        held_out: float = 0.0,
        extend: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_types = covariance_types
        self.criterion = criterion
        self.n_init = n_init
        self.init_params = init_params
        self.tol = tol
        self.max_iter = max_iter
        self.reg_covar = reg_covar
        self.random_state = random_state
        self.accelerate = accelerate
        self.start_effort = start_effort
        self.held_out = held_out
        self.extend = extend

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit all candidates and choose.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            As in :meth:`GaussianMixture.fit`.
        y : None
            Not used, present by convention.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, for the starts too, as in :meth:`GaussianMixture.fit`.

        Returns
        -------
        self : GaussianMixtureSearch

        Raises
        ------
        ValueError
            If a parameter, X or the weights are not usable, or if no candidate could be fitted.
        """
        check_parameters(self)
        if CRITERIA[self.criterion].needs_held_out and not self.held_out:
            raise UserError(
                f"criterion={self.criterion!r} needs rows that are held out of the fits: pass their fraction, such as "
                "held_out=0.2."
            )
        candidates = check_candidates(self.n_components, self.covariance_types)
        rows, seed = read_rows(self, X, sample_weight, reset=True), sample_seed(self.random_state)
        rows = hold_out(rows, self.held_out, seed)
        with one_blas_thread():
            data_summary, settings = self._summarize(rows, seed)
            fit_some = partial(self._fit, rows, data_summary, settings, generator_copies(self.random_state))
            states = fit_some(candidates)
            outcomes = evaluate_states(rows, data_summary, states)
            while (extension := self._extension(outcomes, data_summary.n_rows)).candidates:
                # all of them again, from one read: on held-out rows they are compared with each other
                states = [*states, *fit_some(extension.candidates)]
                outcomes = in_grid_order(evaluate_states(rows, data_summary, states))
        self.results_ = results_table(outcomes, self.criterion)
        self._set_best(choose(outcomes, self.criterion))
        winner = next(row for row in self.results_.to_dict("records") if self.best_params_.items() <= row.items())
        self.remarks_ = remarks(self.results_, self.criterion, winner, extension.stopped if self.extend else None)
        return self

    def _fit(
        self,
        rows: Rows,
        data_summary: DataSummary,
        settings: loop.Settings,
        copies: Callable[[], RandomState],
        candidates: Sequence[Candidate],
    ) -> list[State]:
        """Fit all starts of some candidates."""
        states = first_states(
            candidates,
            data_summary,
            init_params=self.init_params,
            n_init=self.n_init,
            random_state=copies,
            reg_covar=settings.reg_covar,
            effort=self.start_effort,
            rows=lambda: rows,
        )
        return fit_states(states, rows, data_summary, settings)

    def _extension(self, outcomes: Sequence[Outcome], n_rows: int) -> GridExtension:
        if not self.extend:
            return GridExtension()
        best = choose(outcomes, self.criterion).state
        return extend_grid(list(by_candidate(outcomes)), best.candidate, best.status.trusted, n_rows)

    def _set_best(self, outcome: Outcome) -> None:
        state = outcome.state
        self.best_params_: dict[str, Any] = {
            "n_components": state.n_components,
            "covariance_type": state.covariance_type,
        }
        shared = GaussianMixture().get_params().keys() & self.get_params().keys()
        settings = {name: getattr(self, name) for name in shared}
        self.best_estimator_ = GaussianMixture(**{**settings, **self.best_params_})
        self.best_estimator_.set_fitted(state)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(self.best_estimator_, name, getattr(self, name))
        if not state.status.trusted:
            message = f"No candidate can be trusted, and the winner is {state.status}: {state.status.remedy}"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        elif state.status is Status.MAX_ITER:
            warnings.warn(f"The winner did not converge: {state.status.remedy}", ConvergenceWarning, stacklevel=3)

    @property
    def _model(self) -> Model:
        return self.best_estimator_._model
