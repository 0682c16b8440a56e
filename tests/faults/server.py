"""`python -m faults.server ROOT SAID [proofs]`: see `injector.serve`."""

import importlib
import sys
from pathlib import Path

from faults.injector import serve
from faults.writers import CALLS, FOR_PROOFS, IMPORTS

for name in (*IMPORTS, *(FOR_PROOFS if "proofs" in sys.argv else ())):
    importlib.import_module(name)
serve(Path(sys.argv[1]), Path(sys.argv[2]), CALLS)
