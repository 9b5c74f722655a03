import json
import stat
from pathlib import Path
from typing import Any

import pytest

from scripts.audit import main, read_report

FINE = {"name": "anyio", "version": "4.16.0", "vulns": []}
WEAK = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"], "aliases": []}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.15.0)"}


def report(*entries: dict[str, Any]) -> str:
    return json.dumps({"dependencies": entries, "fixes": []})


@pytest.mark.parametrize(
    ("entries", "status", "said"),
    [
        ([FINE], 0, "no known weakness in the 1 packages"),
        ([FINE, WEAK], 1, "old 1.0: PYSEC-1, mended in 1.1 or 2.0"),
        ([FINE, SKIPPED], 2, "1 packages could not be looked up: torch"),
        ([WEAK, SKIPPED], 1, "PYSEC-1"),
        ([SKIPPED], 2, "in the 0 packages"),
        ([], 2, "in the 0 packages"),
    ],
)
def test_nothing_is_called_clean_that_was_not_looked_up(entries: list[dict[str, Any]], status: int, said: str) -> None:
    read = read_report(report(*entries))
    assert read.status == status
    assert said in read.text


@pytest.mark.parametrize("text", ["", "Traceback ...", "{}", "[]", '{"dependencies": [{"vulns": [{}]}]}'])
def test_what_is_no_report_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"report|Expecting"):
        read_report(text)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (f"echo '{report(FINE)}'", 0),
        (f"echo '{report(WEAK)}'; exit 1", 1),
        ("echo 'No known vulnerabilities found' >&2", 2),
        ("echo 'ERROR: connection refused' >&2; exit 1", 2),
    ],
)
def test_the_programs_own_status_does_not_count(
    script: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert main([]) == status
    said = capfd.readouterr()
    assert ("is not known" in said.err) is (status == 2)


def test_without_the_program_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main([]) == 2
    assert "make audit" in capfd.readouterr().err
