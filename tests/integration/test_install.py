"""A service installs without what only others need."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHOW = """
import importlib.util, sys
import {module}.__main__
absent = {absent}
print(*[name for name in absent if importlib.util.find_spec(name)])
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("extra", "absent"),
    [
        ("query", ["torch", "open_clip", "timm", "fastapi", "milvus_lite"]),
        ("gateway", ["torch", "open_clip", "timm", "pymilvus", "milvus_lite"]),
    ],
)
def test_a_service_alone_brings_no_torch(tmp_path: Path, extra: str, absent: list[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    # A copy, so that building leaves nothing in the tree.
    for name in ("saccade", "services"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        str(REPOSITORY / "constraints.txt"),
        f"{source}[{extra}]",
    ]
    subprocess.run(install, check=True, timeout=480)
    script = SHOW.format(module=f"services.{extra}", absent=absent)
    shown = subprocess.run([python, "-c", script], check=True, timeout=60, capture_output=True, text=True, cwd=tmp_path)
    assert shown.stdout.split() == []
