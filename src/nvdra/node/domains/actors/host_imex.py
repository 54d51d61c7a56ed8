"""Asks the IMEX daemon that the host runs whether it is ready."""

from __future__ import annotations

from functools import partial

from nvdra.claims import Facts
from nvdra.domains.steps import AskHost
from nvdra.host import DriverFileMissing, DriverRoot, find_program
from nvdra.node.domains.api import DomainMissing, Domains, answered
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.ports import ApiError, Clock, Host

_ASSERTING = "error applying config: error asserting ComputeDomain's namespace"
_FAILED = "host nvidia-imex daemon readiness check failed"
_TIMEOUT_S = 5.0
_PAUSE_S = 1.0
_PROGRAM = "nvidia-imex-ctl"


class HostImexActor:
    """Applies `AskHost`.

    root     the driver root; its programs run inside it
    socket   of the daemon's command service, as seen inside the root
    """

    def __init__(self, host: Host, clock: Clock, domains: Domains, root: DriverRoot, socket: str) -> None:
        self._host = host
        self._clock = clock
        self._domains = domains
        self._root = root
        self._socket = socket

    async def apply(self, step: AskHost, journal: StepJournal) -> Facts:
        """No facts. Raises StepFailed."""

        def on_failure(error: ApiError) -> None:
            journal.waits(f"the ComputeDomain cannot be looked up: {error.message}")

        find = partial(self._domains.find, step.domain, step.namespace)
        try:
            await journal.wait_for(answered(self._clock, find, on_failure))
            if step.has_fabric:
                await journal.wait_for(self._until_ready(journal))
        except (DomainMissing, ApiError) as error:
            raise StepFailed(f"{_ASSERTING}: {error}") from error
        journal.waits("")
        return {}

    async def roll_back(self, step: AskHost, journal: StepJournal) -> None:
        return None

    async def _until_ready(self, journal: StepJournal) -> None:
        """Nothing tells when it will be: it is asked again every second."""
        while reason := await self._not_ready():
            journal.waits(f"{_FAILED}: {reason}")
            await self._clock.sleep(_PAUSE_S)

    async def _not_ready(self) -> str:
        """Why the daemon is not ready; "" if it is."""
        try:
            program = find_program(self._host, self._root, _PROGRAM)
        except DriverFileMissing:
            return f"{_PROGRAM} not found under driver root {self._root.path}"
        inside = self._root.inside(program)
        argv = [inside, "-q", f"--u={self._socket}"]
        if self._root.path != "/" and not self._root.is_stand_in:
            argv = ["chroot", self._root.path, *argv]
        elif self._root.path != "/":
            argv = [program, "-q", f"--u={self._root.below(self._socket)}"]
        try:
            finished = await self._host.spawn(argv, timeout_s=_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            return f"{' '.join(argv)}: {error}"
        said = finished.stdout.decode(errors="replace").split("\n")
        if finished.exit_code == 0 and "READY" in map(str.strip, said):
            return ""
        heard = (finished.stderr or finished.stdout).decode(errors="replace").strip()
        return f"{' '.join(argv)}: exit status {finished.exit_code}" + (f", {heard}" if heard else "")
