"""Where the package keeps what is not Python: the compiled library and program, and the portraits."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


class NotBuiltError(Exception):
    """The compiled files are missing from the package."""


def native(name: str) -> Path:
    """The compiled file of this name: `libnvidia-ml.so.1` or `nvidia-smi`."""
    file = _HERE / "native" / name
    if not file.is_file():
        raise NotBuiltError(f"{file} is missing: install the package with pip, which compiles it")
    return file


def portraits() -> Path:
    """The folder of portraits: inside a wheel, or beside the sources of an editable install."""
    inside = _HERE / "portraits"
    return inside if inside.is_dir() else _HERE.parent.parent / "portraits"
