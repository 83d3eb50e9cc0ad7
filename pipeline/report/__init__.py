"""Reports: of a complete result, one HTML file that needs nothing else and its pictures as PNGs; and of scores.

``contents`` reads the store, ``phrases`` and ``tables`` describe it, ``figures`` draws it, ``page`` puts it together;
``scores`` makes the page of scores.
"""

from pipeline.report.page import clear_report, has_report, write_report
from pipeline.report.scores import write_score_report
from pipeline.store.paths import PAGE

__all__ = ["PAGE", "clear_report", "has_report", "write_report", "write_score_report"]
