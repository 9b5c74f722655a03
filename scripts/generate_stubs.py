"""Generates the Python code of the contracts into `saccade/`; with `--check`, only says whether it is up to date."""

import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

__all__ = ["generate", "outdated"]

SUFFIXES = {".py", ".pyi"}
REPOSITORY = Path(__file__).resolve().parents[1]


def generate(destination: Path) -> None:
    """Write `*_pb2.py`, `*_pb2.pyi` and, for services, `*_pb2_grpc.py` and `.pyi` below `destination`/saccade."""
    source = REPOSITORY / "proto"
    every = sorted(str(path) for path in source.rglob("*.proto"))
    services = [path for path in every if path.endswith("_service.proto")]
    include = [f"-I{source}", f"-I{files('grpc_tools') / '_proto'}"]
    _protoc([*include, f"--python_out={destination}", f"--mypy_out=quiet:{destination}", *every])
    _protoc([*include, f"--grpc_python_out={destination}", f"--mypy_grpc_out=quiet:{destination}", *services])


def outdated(fresh: Path) -> list[str]:
    """Names of the generated files that differ between `fresh` and the repository, or are only in one of them."""
    ours, theirs = _generated(REPOSITORY), _generated(fresh)
    changed = {name for name in ours & theirs if not filecmp.cmp(fresh / name, REPOSITORY / name, shallow=False)}
    return sorted(str(name) for name in changed | (ours ^ theirs))


def _generated(root: Path) -> set[Path]:
    found = (root / "saccade").rglob("*_pb2*.py*")
    return {path.relative_to(root) for path in found if path.suffix in SUFFIXES}


def _protoc(arguments: list[str]) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("protoc failed")


def main() -> None:
    """Generate, or check."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if "--check" not in sys.argv[1:]:
            for name in _generated(REPOSITORY) - _generated(fresh):
                (REPOSITORY / name).unlink()
            shutil.copytree(fresh / "saccade", REPOSITORY / "saccade", dirs_exist_ok=True)
        elif names := outdated(fresh):
            sys.exit("generated code differs from the contracts; run `make proto`:\n  " + "\n  ".join(names))


if __name__ == "__main__":
    main()
