"""A study's records turned into a page and figures. Reads records only: no training code, no torch.

Altair is imported when a figure is first drawn, so that importing this package stays cheap.
"""

from lowregret.report.html import write_report
from lowregret.report.reading import StudyRecords, load_study

__all__ = ["StudyRecords", "load_study", "write_report"]
