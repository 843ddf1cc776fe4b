"""A sweep's results as one HTML page that can be sent to anyone: build_report and what it is made of."""

from analysis.report.build import Report, build_report

__all__ = ["Report", "build_report"]
