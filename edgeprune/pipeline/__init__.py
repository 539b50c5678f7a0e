"""The only package that sequences stages: baseline, levels, bundles, each step once and then up to date.

- ``make_baseline`` trains the unpruned network of a recipe.
- ``prune_to_schedule`` makes its levels, ``ready_int8`` the int8 version of one; ``preview_plans`` says what that
  would do.
- ``census_of_recipe`` and ``census_of_network`` say what can be pruned and what it is worth, ``measure_sensitivity``
  how much it hurts; ``measure_latency_table`` how fast this machine runs it.
- ``audit_levels`` says what they cost; ``export_levels`` turns them into published bundles.
"""

from edgeprune.pipeline.baseline import make_baseline, open_baseline
from edgeprune.pipeline.bounds import choose_bounds
from edgeprune.pipeline.budgets import BudgetOutcome, prune_to_budget
from edgeprune.pipeline.bundles import ExportOutcome, ExportSummary, export_levels
from edgeprune.pipeline.census import PricedCensus, census_of_network, census_of_recipe
from edgeprune.pipeline.finished import AuditSummary, audit_levels, finished_levels
from edgeprune.pipeline.latency_table import (
    MeasuredLatency,
    latency_folder,
    measure_latency_table,
    open_latency_table,
)
from edgeprune.pipeline.level_int8 import ready_int8
from edgeprune.pipeline.levels import Outcome, PruneSummary, prune_to_schedule
from edgeprune.pipeline.preview import estimate_seconds, preview_plans
from edgeprune.pipeline.sensitivity import measure_sensitivity, sensitivity_folder
from edgeprune.pipeline.sensitivity_table import Sensitivity
from edgeprune.pipeline.workspace import Reporter, SilentReporter, Workspace

__all__ = [
    "AuditSummary",
    "BudgetOutcome",
    "ExportOutcome",
    "ExportSummary",
    "MeasuredLatency",
    "Outcome",
    "PricedCensus",
    "PruneSummary",
    "Reporter",
    "Sensitivity",
    "SilentReporter",
    "Workspace",
    "audit_levels",
    "census_of_network",
    "census_of_recipe",
    "choose_bounds",
    "estimate_seconds",
    "export_levels",
    "finished_levels",
    "latency_folder",
    "make_baseline",
    "measure_latency_table",
    "measure_sensitivity",
    "open_baseline",
    "open_latency_table",
    "preview_plans",
    "prune_to_budget",
    "prune_to_schedule",
    "ready_int8",
    "sensitivity_folder",
]
