"""Log lines as klog writes them, or one JSON object a line, unbuffered.

All lines go to standard error; on demand, information goes to standard output.

`info(4, "About to announce device gpu-0")` prints its text bare; with keys and values,
`info(6, "Response", verb="GET")` prints `"Response" verb="GET"`. Level 0 always appears, others from `-v` on.
A call below the level costs a comparison; nothing here raises.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from types import FrameType
from typing import IO, Any

_SEVERITY = {"info": "I", "warning": "W", "error": "E"}


class _State:
    """The process has one log. Written by `set_up`, read by every call."""

    verbosity = 0
    json = False
    vmodule: tuple[tuple[str, int], ...] = ()
    highest = 0  # the highest of verbosity and all vmodule levels; calls above it return at once
    stream: IO[str] | None = None  # None: descriptors
    descriptors = (2, 2)  # of information, of the rest
    second: tuple[int, str] = (-1, "")  # the last second and its text, cached because lines come in bursts
    cache: dict[tuple[str, str], int] = {}  # noqa: RUF012  level by (file, name shown)


_state = _State()
_write_lock = threading.Lock()


def set_up(
    *,
    logging_format: str = "text",
    verbosity: int = 0,
    vmodule: str = "",
    split_stream: bool = False,
    stream: IO[str] | None = None,
) -> None:
    """Set format and levels. Warnings and errors of the standard library's logging use this format too.

    vmodule   `pattern=N,…`: a level of its own for files; the pattern is a file name without its ending, or a
              path if it contains a slash. Text format only, as in klog.
    split_stream   information goes to standard output
    stream         where all lines go instead
    Raises ValueError with a text for users.
    """
    if logging_format not in ("text", "json"):
        raise ValueError(f'unsupported log format "{logging_format}": use "text" or "json"')
    levels: list[tuple[str, int]] = []
    for item in filter(None, (part.strip() for part in vmodule.split(","))):
        pattern, equals, level = item.partition("=")
        if not equals or not pattern or not level.strip().isdecimal():
            raise ValueError(f'vmodule: "{item}" is not of the form pattern=N')
        levels.append((pattern.strip().removesuffix(".py").removesuffix(".go"), int(level)))
    if levels and logging_format == "json":
        raise ValueError("vmodule: only supported for text log format")
    _state.json = logging_format == "json"
    _state.verbosity = verbosity
    _state.vmodule = tuple(levels)
    _state.highest = max([verbosity, *(level for _, level in levels)])
    _state.stream = stream
    _state.descriptors = (1 if split_stream else 2, 2)
    _state.cache = {}
    _adopt_standard_logging()


def enabled(v: int) -> bool:
    """Whether `info(v, …)` on the caller's line would appear; use it to guard costly arguments."""
    state = _state
    if v <= state.verbosity:
        return True
    return v <= state.highest and v <= _level_for(sys._getframe(1), None)


def info(v: int, msg: str, /, *, at: str | None = None, **values: Any) -> None:
    """One record at verbosity `v`.

    at   "file:line" to show instead of the caller's, for events whose source name is part of the outside contract
    """
    state = _state
    if v > state.highest:
        return
    frame = sys._getframe(1)
    if v > state.verbosity and v > _level_for(frame, at):
        return
    _emit("info", v, msg, frame, at, None, values)


def warning(msg: str, /, *, at: str | None = None, **values: Any) -> None:
    """Log a problem that the program handles."""
    _emit("warning", 0, msg, sys._getframe(1), at, None, values)


def error(msg: str, cause: BaseException | str | None = None, /, *, at: str | None = None, **values: Any) -> None:
    """Log a failure; `cause` is shown as `err`."""
    _emit("error", 0, msg, sys._getframe(1), at, cause, values)


def flush() -> None:
    """Does nothing, since lines are written at once. For callers that end the process."""
    stream = _state.stream or sys.stderr
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return


def _emit(
    severity: str,
    v: int,
    msg: str,
    frame: FrameType,
    at: str | None,
    cause: BaseException | str | None,
    values: dict[str, Any],
) -> None:
    try:
        place = at or f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        now = time.time()
        reason = None if cause is None else (str(cause) or type(cause).__name__)
        if _state.json:
            _write(severity, json_line(severity, v, now, place, msg, reason, values))
        else:
            _write(severity, text_line(severity, now, place, msg, reason, values))
    except Exception:
        # A record that cannot be formatted must not fail its claim.
        return


def text_line(severity: str, now: float, place: str, msg: str, reason: str | None, values: dict[str, Any]) -> str:
    """`I0807 16:00:54.123456       1 file.py:12] message`, values after it as ` key="value"`."""
    whole = int(now)
    second, shown = _state.second
    if second != whole:
        shown = time.strftime("%m%d %H:%M:%S", time.localtime(whole))
        _state.second = (whole, shown)
    micros = int((now - whole) * 1_000_000)
    head = f"{_SEVERITY[severity]}{shown}.{micros:06d} {os.getpid():7d} {place}] "
    if reason is None and not values:
        return f"{head}{msg}\n"
    parts = [_quoted(msg)]
    if reason is not None:
        parts.append(_pair("err", reason))
    parts.extend(_pair(key, value) for key, value in values.items())
    return f"{head}{' '.join(parts)}\n"


def json_line(
    severity: str, v: int, now: float, place: str, msg: str, reason: str | None, values: dict[str, Any]
) -> str:
    """One object: ts in milliseconds since 1970, caller, msg, v of information records, err of errors, the values."""
    record: dict[str, Any] = {"ts": round(now * 1000, 3), "caller": place, "msg": msg}
    if severity == "info":
        record["v"] = v
    elif severity == "error":
        record["err"] = reason if reason is not None else msg
    for key, value in values.items():
        # A value must not replace the record's own keys, or readers would misread the line.
        record[key if key not in record else f"{key}_"] = value
    return f"{_json()(record)}\n"


@cache
def _json() -> Callable[[object], str]:
    """A compact JSON encoder, created on first use: the stack dump is set up before heavy imports."""
    import json

    return json.JSONEncoder(default=str, ensure_ascii=False, separators=(",", ":")).encode


def _pair(key: str, value: Any) -> str:
    if isinstance(value, str):
        if "\n" in value:
            # klog's form for texts of several lines.
            inner = value.rstrip("\n").replace("\n", "\n\t")
            return f"{key}=<\n\t{inner}\n >"
        return f"{key}={_quoted(value)}"
    if value is None:
        return f"{key}=<nil>"
    if isinstance(value, bool):
        return f"{key}={'true' if value else 'false'}"
    if isinstance(value, int | float):
        return f"{key}={value}"
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"{key}={_json()(sorted(value) if isinstance(value, set | frozenset) else value)}"
    return f"{key}={_quoted(str(value))}"


def _quoted(text: str) -> str:
    """As Go's %q for the characters that occur."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    out = []
    for char in text:
        if char in named:
            out.append(named[char])
        elif char.isprintable():
            out.append(char)
        else:
            code = ord(char)
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def _level_for(frame: FrameType, at: str | None) -> int:
    """The level that holds for a file: the first matching vmodule pattern's, else -v."""
    filename = frame.f_code.co_filename
    name = (at or filename.rsplit("/", 1)[-1]).split(":")[0].rsplit(".", 1)[0]
    key = (filename, name)
    level = _state.cache.get(key)
    if level is None:
        path = filename.removesuffix(".py")
        level = next(
            (n for pattern, n in _state.vmodule if fnmatchcase(path if "/" in pattern else name, pattern)),
            _state.verbosity,
        )
        _state.cache[key] = level
    return level


def _write(severity: str, line: str) -> None:
    stream = _state.stream
    if stream is not None:
        stream.write(line)
        stream.flush()
        return
    data = memoryview(line.encode("utf-8", "backslashreplace"))
    descriptor = _state.descriptors[severity != "info"]
    with _write_lock:
        # Straight to the descriptor: a line is one write, and nothing waits in a buffer when the process is killed.
        while data:
            data = data[os.write(descriptor, data) :]


def _adopt_standard_logging() -> None:
    """Write warnings and errors of asyncio, aiohttp and others in this format."""
    import logging

    class Adopted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                text = record.getMessage()
                if record.exc_info and record.exc_info[1] is not None:
                    text += "\n" + logging.Formatter().formatException(record.exc_info)
                severity = "error" if record.levelno >= logging.ERROR else "warning"
                place = f"{os.path.basename(record.pathname)}:{record.lineno}"
                if _state.json:
                    _write(severity, json_line(severity, 0, record.created, place, text, None, {}))
                else:
                    _write(severity, text_line(severity, record.created, place, text, None, {}))
            except Exception:
                return

    root = logging.getLogger()
    if not any(type(handler).__name__ == "Adopted" for handler in root.handlers):
        root.addHandler(Adopted(logging.WARNING))
        root.setLevel(logging.WARNING)
