"""Run jobs in parallel, here or on a cluster; one that fails is named with its log and does not take others along."""

from pqm_plugin.stages.common.jobs.job import Job
from pqm_plugin.stages.common.jobs.run import backend_of, run_jobs
from pqm_plugin.stages.common.jobs.shares import n_shares, shares

__all__ = ["Job", "backend_of", "n_shares", "run_jobs", "shares"]
