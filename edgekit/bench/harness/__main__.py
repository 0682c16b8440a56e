"""`python -m edgekit.bench.harness`: the command line of lm_eval, with edgekit among its models."""

from __future__ import annotations

import sys

from edgekit.errors import EdgekitError, MissingDependencyError


def main() -> None:
    """Run lm_eval with the arguments of this process.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError as error:
        missing = (error.name or "lm_eval").partition(".")[0]
        raise MissingDependencyError(
            f"lm-evaluation-harness needs {missing}", remedy="pip install 'edgekit[lm-eval]'"
        ) from error
    import edgekit.bench.harness.model  # noqa: F401 - makes edgekit known to lm_eval

    cli_evaluate()


if __name__ == "__main__":
    try:
        main()
    except EdgekitError as failure:
        sys.exit(f"error: {failure}")
