"""What the processes of the tests begin with; see `support.processes`.

Garbage collection leaves it alone from then on: it looks at a million objects otherwise, and each
stage of a fine-tuning collects.
"""

import atexit
import gc

import support.finetune_cases  # noqa: F401

gc.freeze()
atexit.register(gc.unfreeze)  # else extension modules report leaks at the end
