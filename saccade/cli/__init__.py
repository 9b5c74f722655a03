"""The `saccade` command: store images, search them, look after collections, compare models.

Exit codes: 0 all well; 1 some images could not be stored, or a service is not ready; 2 the command line, a file or an
argument is wrong; 3 a service refused the call; 4 a service can not be reached, is overloaded, or did not answer in
time; 130 interrupted.
"""

import sys

import grpc

from saccade.cli import comparing, ingesting, jobs, keys, managing, mapping, recovering, searching, vocabularies  # noqa: F401 - each adds its commands
from saccade.cli.app import app
from saccade.cli.output import complain, explain
from saccade.errors import ApiError

__all__ = ["main"]

_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


def main() -> None:
    """Run the command line; ends the process with one of the exit codes above (Typer makes 130 of Ctrl-C)."""
    try:
        app()
    except ApiError as exc:
        complain(explain(exc))
        sys.exit(4 if exc.code in _PASSING else 3)
    except (ValueError, OSError) as exc:
        complain(explain(exc))
        sys.exit(2)
