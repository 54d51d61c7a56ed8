"""Steps of compute-domain.nvidia.com: what a node does before a channel or a daemon can be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class JoinDomain:
    """Label the node with the domain, and wait until the node is ready in it.

    namespace   the claim's, which must be the domain's; "" where the step is rolled back
    """

    kind: ClassVar[str] = "label"
    has_rollback: ClassVar[bool] = True

    domain: str
    namespace: str = ""

    @property
    def key(self) -> str:
        return self.domain

    @property
    def resources(self) -> frozenset[str]:
        return frozenset((self.domain,))


@dataclass(frozen=True, slots=True)
class AskHost:
    """Wait until the IMEX daemon that the host runs is ready; the claim must be in the domain's namespace.

    has_fabric   without a fabric there is no daemon to ask
    """

    kind: ClassVar[str] = "host-imex"
    has_rollback: ClassVar[bool] = False

    domain: str
    namespace: str
    has_fabric: bool

    @property
    def key(self) -> str:
        return self.domain

    @property
    def resources(self) -> frozenset[str]:
        return frozenset()


@dataclass(frozen=True, slots=True)
class LayFolder:
    """Write the folder that the domain's daemon gets as /imexd. It stays until the domain is gone.

    clique   the node's, which the daemon is told
    """

    kind: ClassVar[str] = "folder"
    has_rollback: ClassVar[bool] = False

    domain: str
    clique: str

    @property
    def key(self) -> str:
        return self.domain

    @property
    def resources(self) -> frozenset[str]:
        return frozenset((f"folder-{self.domain}",))


DomainStep = JoinDomain | AskHost | LayFolder
