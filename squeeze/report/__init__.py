"""report.json and report.html: what a run did, and what that bought."""

from squeeze.report.build import Measured as Measured
from squeeze.report.build import Stages as Stages
from squeeze.report.build import build_report as build_report
from squeeze.report.build import origin as origin
from squeeze.report.build import pinned_by_reason as pinned_by_reason
from squeeze.report.data import ByInput as ByInput
from squeeze.report.data import Report as Report
from squeeze.report.html import render as render
from squeeze.report.terminal import summary_table as summary_table
