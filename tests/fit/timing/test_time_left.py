"""When a job will end."""

import pytest

from gmm_dask.em.loop import Settings, Status
from pipeline.fit.timing.time_left import iterations_left, seconds_left
from trends import approaching, halving

SETTINGS = Settings(tol=1e-3, max_iter=100)


def test_a_trend_is_believed_within_a_factor_of_two():
    assert iterations_left(halving(), SETTINGS) == (3, 10)


@pytest.mark.parametrize("changes", [(), (0.1, 0.05), (0.1, 0.1, 0.1, 0.1, 0.1, 0.2)])
def test_without_a_trend_it_may_be_one_iteration_or_all(changes):
    assert iterations_left(approaching(*changes), SETTINGS) == (1, 99 - len(changes))


def test_without_a_tolerance_it_may_be_all():
    assert iterations_left(halving(), Settings(tol=0.0, max_iter=50)) == (1, 44)


def test_never_more_than_max_iter_allows():
    assert iterations_left(halving(), Settings(tol=1e-9, max_iter=10)) == (4, 4)
    assert iterations_left(halving(), Settings(tol=1e-3, max_iter=7)) == (1, 1)


def test_at_the_least_each_fit_has_its_share_and_at_the_most_the_slowest_counts():
    done = halving(status=Status.CONVERGED)
    assert seconds_left([halving(), halving(6), done], [3], SETTINGS, 2.0, 3) == pytest.approx((2.0 * 2, 2.0 * 10))
    assert seconds_left([done], [1], SETTINGS, 2.0, 1) == (0.0, 0.0)


def test_later_waves_and_closing_passes_count():
    """The pass computed one of three fits, and the two of the next wave share its passes."""
    states = [halving()] * 3
    assert seconds_left(states, [1, 2], SETTINGS, 2.0, 1, 2) == pytest.approx((2.0 * (9 + 2), 2.0 * (10 + 2 * 10 + 2)))


def test_fits_of_a_later_stage_count():
    """Six fits of two waves, in passes that cost as one of two fits; each takes from 1 to ``max_iter`` iterations."""
    done, settings = halving(status=Status.CONVERGED), Settings(tol=1e-3, max_iter=10)
    assert seconds_left([done], [1], settings, 2.0, 2, 1, [5, 1]) == pytest.approx((2 * (3 + 1), 2 * (10 * 3.5 + 1)))
