"""Statuses: each has a cause and a remedy, and some may not win."""

from __future__ import annotations

from gmm_dask.em.status import Status


def test_every_status_has_a_cause_and_says_what_to_do():
    for status in Status:
        assert status.cause
        assert status.advice or status is Status.CONVERGED
        assert status.remedy.startswith(status.cause)
        assert status.remedy.endswith(".")
    assert "max_iter" in Status.MAX_ITER.advice
    assert "reg_covar" in Status.SINGULAR.advice


def test_what_may_win():
    assert {status for status in Status if not status.usable} == {Status.SINGULAR, Status.FAILED}
    assert {status for status in Status if not status.trusted} == {
        *(Status.SINGULAR, Status.FAILED),
        *(Status.DEGENERATE, Status.SPURIOUS, Status.ALL_NOISE),
    }
