"""GPUs that are on the PCI bus and that NVML does not show: another kernel driver has them, they are lost, or refused.

They are not offered, and yet have an identity: their PCI address, by which extents, locks and journals name them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from nvdra.gpu.gpu import Gpu, PciFacts


@dataclass(frozen=True, slots=True)
class HiddenGpu:
    """A GPU that cannot be offered now.

    address       PCI address, canonical
    driver        kernel driver it is bound to; "" if none
    reason        why it is not offered
    uuid, minor   None where unknown; else as this scan or an earlier one told
    """

    address: str
    driver: str
    reason: str
    uuid: str | None = None
    minor: int | None = None


def hidden_gpus(
    pci: Mapping[str, PciFacts], shown: Container[str], odd: Iterable[HiddenGpu], before: Mapping[str, Gpu | HiddenGpu]
) -> Iterator[HiddenGpu]:
    """GPUs that are not offered, by address.

    pci      of NVIDIA's functions by address
    shown    addresses of GPUs that could be read, or are never offered
    odd      GPUs that NVML showed and that cannot be offered
    before   GPUs of an earlier scan by address, for what they were called then
    """
    found = {gpu.address: gpu for gpu in odd if gpu.address}
    for address, facts in pci.items():
        if facts.is_gpu and address not in shown and address not in found:
            known = before.get(address)
            uuid, minor = (None, None) if known is None else (known.uuid, known.minor)
            reason = f"on the PCI bus, {bound(facts.driver)}, and not seen by NVML"
            found[address] = HiddenGpu(address, facts.driver, reason, uuid, minor)
    yield from (found[address] for address in sorted(found) if address not in shown)


def bound(driver: str) -> str:
    """A PCI function's kernel driver in words."""
    return f"bound to {driver}" if driver else "bound to no kernel driver"
