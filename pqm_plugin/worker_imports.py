"""Imported by the server that workers are forked from: it imports their libraries, and ends with the recipe.

By itself it would import on, for seconds, for a recipe that had nothing to do or was killed.
"""

import os

from pqm_plugin.imports import import_now
from pqm_plugin.processes import RECIPE_PID, WORKER_IMPORTS, die_with_parent

die_with_parent()
if os.environ.get(RECIPE_PID) not in (None, str(os.getppid())):
    # The recipe ended before the kernel was asked.
    os._exit(0)
import_now(os.environ.get(WORKER_IMPORTS, "").split())
