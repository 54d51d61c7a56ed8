"""Lays the folder that a domain's daemon gets as /imexd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nvdra.claims import Facts
from nvdra.domains.devices import DomainRef
from nvdra.domains.driver import domain_fact
from nvdra.domains.steps import LayFolder
from nvdra.node.domains.api import DomainMissing, Domains, answered
from nvdra.node.domains.folders import DomainFolders
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.ports import ApiError, Clock


class FolderActor:
    """Applies `LayFolder`; the sweep of folders rolls it back once the domain is gone.

    template   the text of IMEX's configuration; called for each folder
    """

    def __init__(self, clock: Clock, domains: Domains, folders: DomainFolders, template: Callable[[], str]) -> None:
        self._clock = clock
        self._domains = domains
        self._folders = folders
        self._template = template

    async def apply(self, step: LayFolder, journal: StepJournal) -> Facts:
        """The domain. Raises StepFailed."""

        def on_failure(error: ApiError) -> None:
            journal.waits(f"the ComputeDomain cannot be looked up: {error.message}")

        find = partial(self._domains.find, step.domain)
        try:
            domain = await journal.wait_for(answered(self._clock, find, on_failure))
            ref = DomainRef(domain.meta.name, domain.meta.namespace, step.clique)
            await self._folders.lay(step.domain, ref, self._template())
        except DomainMissing as error:
            raise StepFailed(f"error applying config: compute domain not found: {step.domain}") from error
        except ApiError as error:
            raise StepFailed(f"error applying config: error getting compute domain: {error.message}") from error
        except OSError as error:
            raise StepFailed(
                f"error applying config: error preparing ComputeDomain daemon settings for requests: {error}"
            ) from error
        journal.waits("")
        return {domain_fact(step.domain): ref}

    async def roll_back(self, step: LayFolder, journal: StepJournal) -> None:
        return None
