"""Two test processes share two cores: more threads of torch would only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
