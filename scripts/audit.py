"""Looks the dependencies of constraints.txt up among known weaknesses: `python -m scripts.audit [FILE]`.

It runs pip-audit, which `make audit` installs, and ends with 0 where none of them has a known weakness, with 1 where
one has, and with 2 where that can not be said: the advisories do not answer, or do not know some of the packages. Then
pip-audit by itself says that it found nothing.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

__all__ = ["Report", "main", "read_report"]

CLEAN: Final = 0
WEAK: Final = 1
UNKNOWN: Final = 2
_LIMIT_S: Final = 600
_SHOWN: Final = 10


@dataclass(frozen=True)
class Report:
    """What is known: packages that were looked up, those that could not be, and a line for each weakness."""

    looked_up: int
    skipped: tuple[str, ...]
    weaknesses: tuple[str, ...]

    @property
    def status(self) -> int:
        """The exit status that says so."""
        if self.weaknesses:
            return WEAK
        return UNKNOWN if self.skipped or not self.looked_up else CLEAN

    @property
    def text(self) -> str:
        """The same for people."""
        lines = list(self.weaknesses)
        if self.skipped:
            some = ", ".join(self.skipped[:_SHOWN]) + (", ..." if len(self.skipped) > _SHOWN else "")
            lines.append(
                f"audit: {len(self.skipped)} packages could not be looked up: {some}; the index that is reached "
                "from here keeps no advisories of them: run it where one is reached that does"
            )
        found = f"{len(self.weaknesses)} known weaknesses" if self.weaknesses else "no known weakness"
        lines.append(f"audit: {found} in the {self.looked_up} packages that were looked up")
        return "\n".join(lines)


def read_report(text: str) -> Report:
    """Read what pip-audit writes as JSON; ValueError if it is none."""
    try:
        entries = json.loads(text)["dependencies"]
        found = [entry for entry in entries if "vulns" in entry]
        return Report(
            len(found),
            tuple(entry["name"] for entry in entries if "vulns" not in entry),
            tuple(
                f"{entry['name']} {entry['version']}: {weakness['id']}, mended in "
                f"{' or '.join(weakness['fix_versions']) or 'no version yet'}"
                for entry in found
                for weakness in entry["vulns"]
            ),
        )
    except (KeyError, TypeError) as exc:
        raise ValueError(f"this is no report of pip-audit: {text[:200]!r}") from exc


def main(arguments: list[str]) -> int:
    """Look the packages of a file up; the exit status."""
    path = arguments[0] if arguments else "constraints.txt"
    program = shutil.which("pip-audit")
    if program is None:
        return _unknown("pip-audit is not there: `make audit` installs it")
    command = [program, "--requirement", path, "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)  # noqa: S603
        report = read_report(done.stdout)
    except subprocess.TimeoutExpired:
        return _unknown(f"pip-audit did not end within {_LIMIT_S} s")
    except ValueError:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return _unknown(f"pip-audit could not look anything up: {said[-1]}")
    sys.stdout.write(f"{report.text}\n")
    return report.status


def _unknown(why: str) -> int:
    sys.stderr.write(f"audit: {why}; whether there are known weaknesses is not known\n")
    return UNKNOWN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
