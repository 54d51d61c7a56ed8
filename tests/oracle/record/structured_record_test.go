package structured

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured/internal"
	"k8s.io/dynamic-resource-allocation/structured/internal/allocatortesting"
)

// TestRecord runs the module's own table of cases and writes the inputs of each as a case of the differential tests.
func TestRecord(t *testing.T) {
	file, err := os.Create(os.Getenv("RECORD_FILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var lock sync.Mutex
	allocatortesting.TestAllocator(t, internal.FeaturesAll, func(
		ctx context.Context,
		features Features,
		state AllocatedState,
		lister DeviceClassLister,
		slices []*resourceapi.ResourceSlice,
		cache *cel.Cache,
	) (allocatortesting.Allocator, error) {
		allocator, err := NewAllocator(ctx, features, state, lister, slices, cache)
		if err != nil {
			return nil, err
		}
		inner, ok := allocator.(internal.Allocator)
		if !ok {
			return nil, fmt.Errorf("%T has not the internal interface", allocator)
		}
		return &recorder{inner, func(node *v1.Node, claims []*resourceapi.ResourceClaim) {
			if node == nil || ctx.Err() != nil {
				return
			}
			lock.Lock()
			defer lock.Unlock()
			if err := json.NewEncoder(file).Encode(recorded(features, state, lister, slices, node, claims)); err != nil {
				t.Error(err)
			}
		}}, nil
	})
}

type recorder struct {
	internal.Allocator
	record func(*v1.Node, []*resourceapi.ResourceClaim)
}

func (r *recorder) Allocate(ctx context.Context, node *v1.Node, claims []*resourceapi.ResourceClaim) ([]resourceapi.AllocationResult, error) {
	r.record(node, claims)
	return r.Allocator.Allocate(ctx, node, claims)
}

// GetStats lets the cases run that pin the number of steps.
func (r *recorder) GetStats() internal.Stats {
	if counted, ok := r.Allocator.(internal.AllocatorExtended); ok {
		return counted.GetStats()
	}
	return internal.Stats{}
}

func recorded(features Features, state AllocatedState, lister DeviceClassLister, slices []*resourceapi.ResourceSlice, node *v1.Node, claims []*resourceapi.ResourceClaim) map[string]any {
	on := map[string]bool{}
	value := reflect.ValueOf(features)
	for i := range value.NumField() {
		on[value.Type().Field(i).Name] = value.Field(i).Bool()
	}
	classes, _ := lister.List()
	names := []string{}
	for _, claim := range claims {
		names = append(names, claim.Name)
	}
	devices, shares, capacity := [][]string{}, [][]string{}, []any{}
	for id := range state.AllocatedDevices {
		devices = append(devices, []string{id.Driver.String(), id.Pool.String(), id.Device.String()})
	}
	for id := range state.AllocatedSharedDeviceIDs {
		shares = append(shares, []string{id.Driver.String(), id.Pool.String(), id.Device.String(), id.ShareID.String()})
	}
	for id, consumed := range state.AggregatedCapacity {
		capacity = append(capacity, map[string]any{
			"id": []string{id.Driver.String(), id.Pool.String(), id.Device.String()}, "consumed": consumed,
		})
	}
	return map[string]any{
		"kind": "allocate", "features": on, "claims": names, "nodes": []string{node.Name},
		"objects": map[string]any{
			"nodes": []*v1.Node{node}, "resourceSlices": slices, "deviceClasses": classes, "resourceClaims": claims,
		},
		"allocated": map[string]any{"devices": devices, "shares": shares, "capacity": capacity},
	}
}
