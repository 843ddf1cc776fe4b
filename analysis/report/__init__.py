"""Builds one self-contained HTML page from the results of sweeps.

`runners.report` calls `build_report`; `runners.show` uses `survivors_page`. Nothing else imports this package.
"""

from analysis.report.build import Report, build_report

__all__ = ["Report", "build_report"]
