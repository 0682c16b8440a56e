"""`python -m faults.server ROOT SAID`: see `injector.serve`."""

import importlib
import sys
from pathlib import Path

from faults.injector import serve
from faults.writers import CALLS, IMPORTS

for name in IMPORTS:
    importlib.import_module(name)
serve(Path(sys.argv[1]), Path(sys.argv[2]), CALLS)
