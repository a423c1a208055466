"""What the process that workers are forked from imports first: with it, the process ends when the recipe ends.

By itself it would import on, for seconds, for a recipe that had nothing to do or was killed.
"""

import os

from pqm_plugin.processes import RECIPE_PID, die_with_parent

die_with_parent()
if os.environ.get(RECIPE_PID) not in (None, str(os.getppid())):
    # The recipe ended before the kernel was asked.
    os._exit(0)
