// Reads a node through NVIDIA's Go binding, as drivers written in Go do, and prints it as JSON.
// Run with the path of the library to load.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

type profile struct {
	ID, Slices, Instances, Multiprocessors, CopyEngines uint32
	MemoryMiB                                           uint64
	Placements                                          [][2]uint32
}

type link struct {
	Remote string
	Kind   int
}

type gpu struct {
	Name, UUID, BusID, Serial                           string
	Minor, Architecture, Brand, ModuleID, MaxMigDevices int
	ComputeCapability                                   [2]int
	MigMode                                             [2]int
	MemoryTotal, MemoryReserved                         uint64
	AddressingMode                                      *uint32
	EventTypes                                          uint64
	Profiles                                            map[int]profile
	ProfileErrors                                       map[int]int
	Ancestors                                           []int
	Links                                               []link
	NvlinkP2P                                           []int
	Cpus                                                []uint
}

type node struct {
	Driver, Nvml  string
	Cuda          int
	HasAddressing bool
	Gpus          []gpu
}

func must(what string, ret nvml.Return) {
	if ret != nvml.SUCCESS {
		fmt.Fprintf(os.Stderr, "%s: %s\n", what, nvml.ErrorString(ret))
		os.Exit(1)
	}
}

func text(bytes []int8) string {
	var out []byte
	for _, b := range bytes {
		if b == 0 {
			break
		}
		out = append(out, byte(b))
	}
	return string(out)
}

func profiles(device nvml.Device) (map[int]profile, map[int]int) {
	found, failed := map[int]profile{}, map[int]int{}
	for index := 0; index < 19; index++ {
		info, ret := device.GetGpuInstanceProfileInfo(index)
		if ret != nvml.SUCCESS {
			failed[index] = int(ret)
			continue
		}
		places, ret := device.GetGpuInstancePossiblePlacements(&info)
		must("placements", ret)
		starts := [][2]uint32{}
		for _, place := range places {
			starts = append(starts, [2]uint32{place.Start, place.Size})
		}
		found[index] = profile{
			ID: info.Id, Slices: info.SliceCount, Instances: info.InstanceCount, Multiprocessors: info.MultiprocessorCount,
			CopyEngines: info.CopyEngineCount, MemoryMiB: info.MemorySizeMB, Placements: starts,
		}
	}
	return found, failed
}

func links(device nvml.Device) []link {
	all := []link{}
	for index := 0; ; index++ {
		if _, ret := device.GetNvLinkState(index); ret != nvml.SUCCESS {
			return all
		}
		pci, ret := device.GetNvLinkRemotePciInfo(index)
		must("remote pci", ret)
		kind, ret := device.GetNvLinkRemoteDeviceType(index)
		must("remote type", ret)
		all = append(all, link{text(pci.BusId[:]), int(kind)})
	}
}

func read(device nvml.Device, devices []nvml.Device) gpu {
	var seen gpu
	var ret nvml.Return
	seen.Name, ret = device.GetName()
	must("name", ret)
	seen.UUID, ret = device.GetUUID()
	must("uuid", ret)
	byUUID, ret := nvml.DeviceGetHandleByUUID(seen.UUID)
	must("handle by uuid", ret)
	seen.Minor, ret = byUUID.GetMinorNumber()
	must("minor", ret)
	pci, ret := device.GetPciInfo()
	must("pci", ret)
	seen.BusID = text(pci.BusId[:])
	_, ret = nvml.DeviceGetHandleByPciBusId(seen.BusID)
	must("handle by bus id", ret)
	if seen.Serial, ret = device.GetSerial(); ret == nvml.ERROR_NOT_SUPPORTED {
		seen.Serial = ""
	}
	architecture, ret := device.GetArchitecture()
	must("architecture", ret)
	seen.Architecture = int(architecture)
	brand, ret := device.GetBrand()
	must("brand", ret)
	seen.Brand = int(brand)
	seen.ComputeCapability[0], seen.ComputeCapability[1], ret = device.GetCudaComputeCapability()
	must("compute capability", ret)
	seen.MigMode[0], seen.MigMode[1], ret = device.GetMigMode()
	must("mig mode", ret)
	seen.MaxMigDevices, ret = device.GetMaxMigDeviceCount()
	must("max mig devices", ret)
	memory, ret := device.GetMemoryInfo()
	must("memory", ret)
	memoryV2, ret := device.GetMemoryInfo_v2()
	must("memory v2", ret)
	seen.MemoryTotal, seen.MemoryReserved = memory.Total, memoryV2.Reserved
	if mode, ret := device.GetAddressingMode(); ret == nvml.SUCCESS {
		seen.AddressingMode = &mode.Value
	}
	if seen.ModuleID, ret = device.GetModuleId(); ret == nvml.ERROR_NOT_SUPPORTED {
		seen.ModuleID = -1
	}
	seen.EventTypes, ret = device.GetSupportedEventTypes()
	must("event types", ret)
	seen.Profiles, seen.ProfileErrors = profiles(device)
	for _, other := range devices {
		level, ret := nvml.DeviceGetTopologyCommonAncestor(device, other)
		must("common ancestor", ret)
		status, ret := nvml.DeviceGetP2PStatus(device, other, nvml.P2P_CAPS_INDEX_NVLINK)
		must("p2p", ret)
		seen.Ancestors = append(seen.Ancestors, int(level))
		seen.NvlinkP2P = append(seen.NvlinkP2P, int(status))
	}
	seen.Links = links(device)
	seen.Cpus, ret = device.GetCpuAffinity(256)
	must("cpu affinity", ret)
	return seen
}

func main() {
	if err := nvml.SetLibraryOptions(nvml.WithLibraryPath(os.Args[1])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	must("init", nvml.InitWithFlags(nvml.INIT_FLAG_NO_GPUS))
	defer nvml.Shutdown()
	var seen node
	var ret nvml.Return
	seen.Driver, ret = nvml.SystemGetDriverVersion()
	must("driver version", ret)
	seen.Nvml, ret = nvml.SystemGetNVMLVersion()
	must("nvml version", ret)
	seen.Cuda, ret = nvml.SystemGetCudaDriverVersion()
	must("cuda version", ret)
	seen.HasAddressing = nvml.Extensions().LookupSymbol("nvmlDeviceGetAddressingMode") == nil
	count, ret := nvml.DeviceGetCount()
	must("count", ret)
	var devices []nvml.Device
	for index := 0; index < count; index++ {
		device, ret := nvml.DeviceGetHandleByIndex(index)
		must("handle", ret)
		devices = append(devices, device)
	}
	for _, device := range devices {
		seen.Gpus = append(seen.Gpus, read(device, devices))
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
