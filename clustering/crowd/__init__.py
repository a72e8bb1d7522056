"""Answers of many workers: what they say about masks and about the workers, and what to ask again.

``worker_answers`` (the answers), ``model`` (Dawid and Skene's model), ``redundancy`` (who is asked next),
``worker_report`` (one row of figures per worker).
"""

from __future__ import annotations

from clustering.crowd.model import CrowdModel, fit_crowd, verdicts
from clustering.crowd.redundancy import next_workers
from clustering.crowd.worker_answers import Answers
from clustering.crowd.worker_report import WorkerReport, worker_report

__all__ = [
    "Answers",
    "CrowdModel",
    "WorkerReport",
    "fit_crowd",
    "next_workers",
    "verdicts",
    "worker_report",
]
