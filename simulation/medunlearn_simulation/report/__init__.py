"""report.html: the figures of `result.json` for a hospital engineer and a privacy officer."""

from medunlearn_simulation.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
