"""Profiles and stacks over HTTP (`--pprof-path`): what this program does, for pprof, flame graphs and people.

Pages below the path: `profile` (CPU and wall time of each thread), `heap` (memory allocated meanwhile and still in
use), `threads` (all stacks now, asyncio's tasks included), `cmdline`. Each works on the running program and costs
nothing before it is asked. Only Python frames have names; threads of native libraries appear with their CPU time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gzip
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from urllib.parse import parse_qs

from nvdra import telemetry

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

HERTZ = 100
_DEFAULT_S, _MOST_S = {"profile": 30.0, "heap": 10.0}, 300.0
_HEAP_LINES = 100
_LOOP_S = 2.0

Frame = tuple[str, str, int, int]
"""Function, file, its first line, the line."""
Stack = tuple[Frame, ...]
"""The innermost frame first."""


class _Refused(Exception):
    """A question that is not answered: the HTTP status and the reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Profile:
    """Samples of one time span, by thread and stack.

    wall     how often a stack was seen
    cpu_ns   CPU time that its thread used meanwhile
    """

    began: float
    seconds: float = 0.0
    wall: Counter[tuple[str, Stack]] = field(default_factory=Counter)
    cpu_ns: Counter[tuple[str, Stack]] = field(default_factory=Counter)


def profiles(path: str) -> Mapping[str, App]:
    """The application by its path, for `MetricsServer`; nothing if there is no path. Call it on the loop."""
    path = "/" + path.strip("/")
    return {} if path == "/" else {path: _Pages(path, asyncio.get_running_loop())}


def sample(seconds: float, hertz: int = HERTZ) -> Profile:
    """A profile of all threads but this one. Takes that long."""
    made = Profile(time.time())
    began = time.monotonic()
    known = _cpu_times()
    turn = 0
    while (now := time.monotonic()) < began + seconds:
        turn += 1
        time.sleep(max(began + turn / hertz - now, 0.0))
        spent = _cpu_times()
        own = threading.get_native_id()
        frames = sys._current_frames()
        python = {thread.native_id: (thread.name, frames.get(thread.ident or 0)) for thread in threading.enumerate()}
        for thread_id, (name, nanoseconds) in spent.items():
            if thread_id == own:
                continue
            name, frame = python.get(thread_id, (name, None))
            key = name, _stack(frame)
            if frame is not None:
                made.wall[key] += 1
            if used := nanoseconds - known.get(thread_id, ("", nanoseconds))[1]:
                made.cpu_ns[key] += used
        known = spent
    made.seconds = time.monotonic() - began
    return made


def pprof(profile: Profile) -> bytes:
    """The profile as pprof reads it."""
    from nvdra.kubelet.proto.pprof import profile_pb2 as pb

    out = pb.Profile(
        time_nanos=int(profile.began * 1e9), duration_nanos=int(profile.seconds * 1e9), period=10**9 // HERTZ
    )
    texts: dict[str, int] = {"": 0}
    functions: dict[tuple[str, str, int], int] = {}
    locations: dict[Frame, int] = {}

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts))

    def location(frame: Frame) -> int:
        if frame not in locations:
            name, file, first, line = frame
            if (name, file, first) not in functions:
                functions[name, file, first] = len(functions) + 1
                out.function.add(
                    id=len(functions), name=text(name), system_name=text(name), filename=text(file), start_line=first
                )
            locations[frame] = len(locations) + 1
            out.location.add(id=len(locations)).line.add(function_id=functions[name, file, first], line=line)
        return locations[frame]

    for kind, unit in (("samples", "count"), ("cpu", "nanoseconds")):
        out.sample_type.add(type=text(kind), unit=text(unit))
    out.period_type.type, out.period_type.unit = text("wall"), text("nanoseconds")
    for key in {**profile.wall, **profile.cpu_ns}:
        thread, stack = key
        # Threads of native libraries have no frames that Python knows: the thread itself stands for them.
        frames = stack or ((f"[native thread {thread}]", "", 0, 0),)
        one = out.sample.add(
            location_id=[location(frame) for frame in frames], value=[profile.wall[key], profile.cpu_ns[key]]
        )
        one.label.add(key=text("thread"), str=text(thread))
    out.string_table.extend(texts)
    return gzip.compress(out.SerializeToString(), mtime=0)


def folded(profile: Profile) -> bytes:
    """The profile's CPU time in microseconds as lines "thread;outer;inner number", for flame graphs."""
    lines = [
        ";".join([thread, *(f"{name} ({os.path.basename(file)}:{line})" for name, file, _, line in reversed(stack))])
        + f" {nanoseconds // 1000}\n"
        for (thread, stack), nanoseconds in sorted(profile.cpu_ns.items())
    ]
    return "".join(lines).encode()


def heap(seconds: float) -> bytes:
    """The lines of code that allocated most of what is still in use after this time."""
    import tracemalloc

    was_on = tracemalloc.is_tracing()
    if not was_on:
        tracemalloc.start()
    try:
        time.sleep(seconds)
        found = tracemalloc.take_snapshot()
    finally:
        if not was_on:
            tracemalloc.stop()
    lines = found.filter_traces((tracemalloc.Filter(False, tracemalloc.__file__),)).statistics("lineno")
    head = f"allocated within {seconds:g} s and still in use: {sum(line.size for line in lines)} bytes\n"
    told = (f"{line.size:>10} bytes {line.count:>7} blocks  {line.traceback}\n" for line in lines[:_HEAP_LINES])
    return (head + "".join(told)).encode()


def stacks(loop: asyncio.AbstractEventLoop) -> bytes:
    """The stacks of all threads and of the loop's tasks now. Called on another thread than the loop's."""
    told: concurrent.futures.Future[bytes] = concurrent.futures.Future()
    loop.call_soon_threadsafe(lambda: told.set_result(telemetry.task_stacks()))
    frames = sys._current_frames()
    lines = []
    for thread in threading.enumerate():
        lines.append(f"\nThread {thread.name}:\n")
        for name, file, _, line in _stack(frames.get(thread.ident or 0)):
            lines.append(f'  File "{file}", line {line} in {name}\n')
    try:
        tasks = told.result(_LOOP_S)
    except concurrent.futures.TimeoutError:
        tasks = (
            f"\nThe event loop did not answer within {_LOOP_S:g} s: its thread's stack shows where it is.\n".encode()
        )
    return "".join(lines).encode() + tasks


class _Pages:
    """The WSGI application."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._busy = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        kind = "text/plain; charset=utf-8"
        try:
            if environ["REQUEST_METHOD"] != "GET":
                raise _Refused("405 Method Not Allowed", "only GET")
            query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
            status, kind, body = self._page(environ["PATH_INFO"].removeprefix(self._path).strip("/"), query, kind)
        except _Refused as refused:
            status, body = refused.status, f"{refused}\n".encode()
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    def _page(self, page: str, query: Mapping[str, str], kind: str) -> tuple[str, str, bytes]:
        match page:
            case "":
                return "200 OK", kind, self._index()
            case "cmdline":
                return "200 OK", kind, "\0".join(sys.orig_argv).encode()
            case "threads":
                return "200 OK", kind, stacks(self._loop)
            case "heap":
                seconds = _seconds(page, query)
                with _Alone(self._busy):
                    return "200 OK", kind, heap(seconds)
            case "profile":
                seconds, form = _seconds(page, query), query.get("format", "pprof")
                if form not in ("pprof", "folded"):
                    raise _Refused("400 Bad Request", f"format={form}: must be pprof or folded")
                with _Alone(self._busy):
                    made = sample(seconds)
                if form == "folded":
                    return "200 OK", kind, folded(made)
                return "200 OK", "application/octet-stream", pprof(made)
        raise _Refused("404 Not Found", f"no page {page}: see {self._path}")

    def _index(self) -> bytes:
        pages = (
            ("profile?seconds=30", "CPU and wall time of each thread, for `go tool pprof`"),
            ("profile?seconds=30&format=folded", "CPU time as folded stacks, for flamegraph.pl and speedscope"),
            ("heap?seconds=10", "memory allocated meanwhile and still in use, by line of code"),
            ("threads", "all stacks now, those of asyncio's tasks included"),
            ("cmdline", "the command line, parts separated by NUL"),
        )
        return "".join(f"{self._path}/{page:<36}{about}\n" for page, about in pages).encode()


class _Alone:
    """One measurement at a time: two would measure each other."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise _Refused("503 Service Unavailable", "another profile is being taken; try again when it is done")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _seconds(page: str, query: Mapping[str, str]) -> float:
    text = query.get("seconds", "")
    try:
        seconds = float(text) if text else _DEFAULT_S[page]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_S:
        raise _Refused("400 Bad Request", f"seconds={text}: must be a number above 0, at most {_MOST_S:g}")
    return seconds


def _stack(frame: FrameType | None) -> Stack:
    found: list[Frame] = []
    while frame is not None:
        code = frame.f_code
        found.append((code.co_qualname, code.co_filename, code.co_firstlineno, frame.f_lineno or code.co_firstlineno))
        frame = frame.f_back
    return tuple(found)


def _cpu_times() -> dict[int, tuple[str, int]]:
    """Name and CPU time in nanoseconds of every thread of this process, by its id."""
    found = {}
    for name in os.listdir("/proc/self/task"):
        comm, spent = _read(f"/proc/self/task/{name}/comm").strip(), _read(f"/proc/self/task/{name}/schedstat").split()
        if comm:
            found[int(name)] = comm, int(spent[0]) if spent else 0
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # the thread ended meanwhile, or the kernel keeps no such figures
