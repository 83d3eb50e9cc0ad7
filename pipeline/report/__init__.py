"""The report of a complete result: one HTML file that needs nothing else, and its pictures as PNGs.

``contents`` reads the store, ``phrases`` and ``tables`` describe it, ``figures`` draws it, ``page`` puts it together.
"""

from pipeline.report.page import PAGE, clear_report, has_report, write_report

__all__ = ["PAGE", "clear_report", "has_report", "write_report"]
