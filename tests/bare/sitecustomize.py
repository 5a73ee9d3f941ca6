"""Python imports this at its start where PYTHONPATH names the folder: the packages named by ABSENT are not installed,
neither here nor in the worker processes that this one starts."""

import os

from absent import hide

hide(os.environ["ABSENT"].split(","))
