"""Which config applies to which result: the rule's table, and the native form against its twin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra._core import match_configs
from nvdra.gpu.matching import MismatchError, match
from tests.twins import matching as twin

GPU, MIG, VFIO = "GpuConfig", "MigDeviceConfig", "VfioDeviceConfig"
DEFAULTS = [((), GPU), ((), MIG), ((), VFIO)]


@pytest.mark.parametrize(
    ("configs", "request_name", "index"),
    [
        ([], "r", 0),
        ([((), GPU)], "r", 3),
        ([(("r",), GPU)], "r", 3),
        ([(("other",), GPU)], "r", 0),
        # Later beats earlier, named or not: naming a request does not outrank a later entry for all.
        ([(("r",), GPU), ((), GPU)], "r", 4),
        ([((), GPU), (("r",), GPU)], "r", 4),
        # An entry for all that does not fit is passed by.
        ([((), MIG), ((), VFIO)], "r", 0),
        # A main request covers its subrequests.
        ([(("r",), GPU)], "r/sub", 3),
        ([(("r/sub",), GPU)], "r/sub", 3),
        ([(("r/sub",), GPU)], "r/other", 0),
        ([(("r/sub",), GPU)], "r", 0),
        ([(("r",), MIG)], "r/sub", 0),
    ],
)
def test_the_config_that_applies(configs, request_name, index):
    assert match([(request_name, "gpu-0", "gpu")], [*DEFAULTS, *configs]) == [index]


@pytest.mark.parametrize("kind", [MIG, VFIO])
def test_a_config_that_names_a_request_must_fit_its_device(kind):
    with pytest.raises(MismatchError) as refused:
        match([("a", "gpu-1", "gpu"), ("r", "gpu-0", "gpu")], [*DEFAULTS, (("r",), kind)])
    assert str(refused.value) == f'cannot apply {kind} to device "gpu-0" of type "gpu" (request: r)'


@pytest.mark.parametrize("kind", ["ComputeDomainChannelConfig", "ComputeDomainDaemonConfig", "ComputeDomain"])
def test_a_kind_that_configures_no_gpu_is_refused_where_it_names_a_request(kind):
    with pytest.raises(MismatchError, match=r"^runtime object is not a recognized configuration$"):
        match([("r", "gpu-0", "gpu")], [*DEFAULTS, (("r",), kind)])
    assert match([("r", "gpu-0", "gpu")], [*DEFAULTS, ((), kind)]) == [0]


requests = st.sampled_from(["a", "b", "a/x", "a/y", "b/x", "ab"])
kinds = st.sampled_from([GPU, MIG, VFIO, "ComputeDomain"])


@given(
    st.lists(st.tuples(requests, st.just("dev"), st.sampled_from(["gpu", "mig", "migdyn", "vfio", "unknown"]))),
    st.lists(st.tuples(st.lists(requests, max_size=3), kinds), max_size=6),
)
def test_the_native_form_chooses_as_its_twin(results, configs):
    assert match_configs(results, configs) == twin.match_configs(results, configs)
