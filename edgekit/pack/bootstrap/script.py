"""The install script: check what is run, make an environment for the moment, have edgekit in it install the bundle."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit.pack.bootstrap.environment import clean_variables, make_environment, python_of
from edgekit.pack.bootstrap.here import RefusedError, check_platform, chosen, here
from edgekit.pack.bootstrap.trust import check_hashes, read, verified


def main(arguments: Sequence[str]) -> int:
    """`BUNDLE --to ROOT --key FILE`.

    Returns:
        The exit code; why it is not 0 is said on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="install",
        description="Install this bundle, or update to it what an earlier one installed. No network, no compiler.",
        epilog="Trust comes from the key alone, so it must come by another way than the bundle: in person, in print. "
        "This script came with the bundle. To rely on nothing that did, run the copy of it that came with the key: "
        "install.sh BUNDLE is the same for every bundle.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder (default: where this script lies)")
    parser.add_argument("--to", type=Path, required=True, metavar="ROOT", help="a new folder, or an earlier ROOT")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the public key of the bundle's maker")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is temporary is removed
    try:
        return _install(options.bundle.absolute(), options.to.absolute(), options.key.absolute())
    except (RefusedError, OSError) as error:
        sys.stderr.write(f"install: {error}\n")
        return 1


def _install(bundle: Path, root: Path, key: Path) -> int:
    document, machine = verified(bundle, key), here()
    check_platform(document, machine)
    paths = [file["path"] for file in document["files"]]
    wheels = set(chosen([path for path in paths if re.fullmatch(r"wheels/[^/]+", path)], machine))
    check_hashes(bundle, [file for file in document["files"] if file["path"] in wheels])
    root.parent.mkdir(parents=True, exist_ok=True)
    state = root / "state.json"
    verb = "update" if state.is_file() and json.loads(read(state)).get("slot") else "install"
    # On the disk of the root: the one for temporary files may be memory.
    with tempfile.TemporaryDirectory(prefix=".edgekit-install-", dir=root.parent) as temporary:
        make_environment(Path(temporary), [bundle / path for path in sorted(wheels)])
        command = [python_of(Path(temporary)), "-P", "-m", "edgekit", verb, bundle, "--to", root, "--key", key]
        return subprocess.call([str(word) for word in command], env=clean_variables())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
