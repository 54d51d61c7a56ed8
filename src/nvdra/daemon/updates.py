"""Carries the members over to IMEX: hosts file or node list, then a start, a reload or a restart."""

from __future__ import annotations

from collections.abc import Sequence

from nvdra import telemetry
from nvdra.api.compute_domain import Member
from nvdra.daemon.files import DaemonFiles
from nvdra.daemon.identity import DaemonFailed, Identity
from nvdra.daemon.process import ImexProcess
from nvdra.domains.imex import hosts, listed_nodes, named_nodes


class NamedUpdates:
    """DNS mode: the node list never changes; the hosts file says which address a name has.

    Raises DaemonFailed.
    """

    def __init__(self, me: Identity, files: DaemonFiles, process: ImexProcess) -> None:
        self._me = me
        self._files = files
        self._process = process
        self._named: dict[int, str] | None = None
        self._own: int | None = None
        files.write_nodes(named_nodes(me.limit))

    def take(self, members: Sequence[Member], _wanted_nodes: int) -> None:
        """The members changed, or may have. This daemon is one of them."""
        ours = [each for each in members if each.clique == self._me.clique]
        for each in ours:
            if not 0 <= each.index < self._me.limit:
                raise DaemonFailed(2, f"node {each.node} has index {each.index}, not one of 0 to {self._me.limit - 1}")
        named = {each.index: each.ip for each in ours if each.ip}
        own = next(each.index for each in ours if (each.node, each.ip) == (self._me.node, self._me.ip))
        if named == self._named:
            return
        before, former, self._named, self._own = self._named, self._own, named, own
        present = self._files.read_hosts()
        if (text := hosts(present, ours)) != present:
            self._files.write_hosts(text)
        telemetry.info(1, "Wrote the addresses of the domain's daemons", daemons=len(named), own_index=own)
        if former is not None and former != own:
            # IMEX found at its start which line of the list is itself.
            telemetry.warning("The index of this daemon changed, so IMEX starts anew", index=own, former=former)
            self._process.restart()
        elif before is None:
            self._process.start()
        elif any(before.get(index) != ip for index, ip in named.items()):
            self._process.reload()  # a name that is gone needs none


class ListedUpdates:
    """IP mode: the list of addresses is complete once the domain has its number of nodes; each change is a restart.

    Raises DaemonFailed.
    """

    def __init__(self, me: Identity, files: DaemonFiles, process: ImexProcess) -> None:
        self._me = me
        self._files = files
        self._process = process
        self._has_started = False

    def take(self, members: Sequence[Member], wanted_nodes: int) -> None:
        """The members changed, or may have."""
        if len(members) != wanted_nodes:
            telemetry.info(
                6, "Wait for updated ComputeDomainDaemonInfo list", nodes=len(members), wanted_nodes=wanted_nodes
            )
            return
        changed = self._files.write_nodes(listed_nodes(each for each in members if each.clique == self._me.clique))
        if not self._has_started:
            self._has_started = True
            self._process.start()
        elif changed:
            self._process.restart()
