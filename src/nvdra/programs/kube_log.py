"""Logs exchanges with the API server at verbosity 6; those that only keep a connection open, at 8."""

from __future__ import annotations

from nvdra import telemetry
from nvdra.kube import Response


def log_response(response: Response) -> None:
    level = 8 if response.keeps_warm else 6
    if telemetry.enabled(level):
        telemetry.info(
            level,
            "Response",
            at="round_trippers.go:632",  # DROP-IN: tests of the Go driver look for this caller
            verb=response.verb,
            url=response.url,
            status=response.status,
            milliseconds=round(response.duration_s * 1000, 1),
        )
