"""The one entrance: run the jobs of a stage, each of them twice at most."""

import logging
from collections.abc import Sequence

from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.jobs.job import Backend, Failure, Job, Progress, last_lines
from pqm_plugin.stages.common.jobs.local import Local
from pqm_plugin.stages.recipe import Recipe

_N_NAMED = 5


def backend_of(recipe: Recipe) -> Backend:
    """Where the jobs of a recipe run: `--cmd_backend`."""
    if recipe.cmd_backend == "slurm":
        from pqm_plugin.stages.common.jobs.slurm import Slurm, SlurmOptions

        gpus = 1 if recipe.ngpu else 0
        options = SlurmOptions(recipe.slurm_partition, recipe.slurm_time, recipe.slurm_mem, recipe.slurm_extra, gpus)
        return Slurm(recipe.packed_dir / "slurm", options)
    return Local()


def run_jobs(jobs: Sequence[Job], n_parallel: int, label: str, backend: Backend | None = None) -> None:
    """Run all jobs, at most `n_parallel` at a time, and show how many steps are done and how long the rest takes.

    A job that fails is tried once more when all others have ended, unless its error is one that the user can mend.

    Raises:
        PqmError: after all have ended, if some failed: each with the last line of its log.
    """
    if not jobs:
        return
    backend = backend or Local()
    with Progress(jobs, label) as progress:
        failures = backend.run(jobs, n_parallel, progress, again=False)
        again = [failure.job for failure in failures if not failure.mendable]
        for failure in failures:
            _name(label, failure, "no second try" if failure.mendable else "trying it once more")
        if again:
            failures = [failure for failure in failures if failure.mendable]
            second = backend.run(again, n_parallel, progress, again=True)
            for failure in second:
                _name(label, failure, "failed twice")
            failures += second
    if failures:
        named = "; ".join(str(failure) for failure in failures[:_N_NAMED])
        more = f"; and {len(failures) - _N_NAMED} more, see above" if len(failures) > _N_NAMED else ""
        raise PqmError(f"{label}: {len(failures)} of {len(jobs)} jobs failed, the others are done: {named}{more}")


def _name(label: str, failure: Failure, then: str) -> None:
    lines = last_lines(failure.job.log)
    ends = "".join(f"\n    {line}" for line in lines) or " nothing"
    logging.warning("%s: %s; %s. The log ends with%s", label, failure, then, ends)
