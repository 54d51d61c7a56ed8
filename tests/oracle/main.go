// Oracle: answers allocation and CEL cases with the allocator and the CEL environment of the scheduler.
//
// One JSON case a line on standard input, one JSON answer a line on standard output, in the same order.
// Test equipment, never shipped. It calls exported entry points only.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

type objects struct {
	Nodes          []*corev1.Node               `json:"nodes"`
	ResourceSlices []*resourceapi.ResourceSlice `json:"resourceSlices"`
	DeviceClasses  []*resourceapi.DeviceClass   `json:"deviceClasses"`
	ResourceClaims []*resourceapi.ResourceClaim `json:"resourceClaims"`
}

type consumed struct {
	ID       [3]string                                       `json:"id"`
	Consumed map[resourceapi.QualifiedName]resource.Quantity `json:"consumed"`
}

type allocated struct {
	Devices  [][3]string `json:"devices"`
	Shares   [][4]string `json:"shares"`
	Capacity []consumed  `json:"capacity"`
}

type celDevice struct {
	Driver                   string                                                    `json:"driver"`
	AllowMultipleAllocations *bool                                                     `json:"allowMultipleAllocations"`
	Attributes               map[resourceapi.QualifiedName]resourceapi.DeviceAttribute `json:"attributes"`
	Capacity                 map[resourceapi.QualifiedName]resourceapi.DeviceCapacity  `json:"capacity"`
}

type testCase struct {
	ID         string          `json:"id"`
	Kind       string          `json:"kind"`
	Release    string          `json:"release"` // for the engine: this program is of one release
	Variant    string          `json:"variant"`
	Features   map[string]bool `json:"features"`
	Objects    objects         `json:"objects"`
	Allocated  allocated       `json:"allocated"`
	Claims     []string        `json:"claims"`
	Nodes      []string        `json:"nodes"`
	TimeoutMs  int             `json:"timeoutMs"`
	Loop       int             `json:"loop"`
	Env        string          `json:"env"`
	Expression string          `json:"expression"`
	Devices    []celDevice     `json:"devices"`
	CostLimit  *uint64         `json:"costLimit"`
}

type nodeAnswer struct {
	Name    string                         `json:"name"`
	Outcome string                         `json:"outcome"`
	Results []resourceapi.AllocationResult `json:"results,omitempty"`
	Error   string                         `json:"error,omitempty"`
	Steps   int64                          `json:"steps"`
	Nanos   int64                          `json:"nanos,omitempty"`
}

type deviceAnswer struct {
	Match *bool   `json:"match,omitempty"`
	Error string  `json:"error,omitempty"`
	Cost  *uint64 `json:"cost,omitempty"`
}

type answer struct {
	ID           string         `json:"id"`
	Nodes        []nodeAnswer   `json:"nodes,omitempty"`
	Error        string         `json:"error,omitempty"`
	CompileError string         `json:"compileError,omitempty"`
	OutputType   string         `json:"outputType,omitempty"`
	Devices      []deviceAnswer `json:"devices,omitempty"`
}

type classLister []*resourceapi.DeviceClass

func (l classLister) List() ([]*resourceapi.DeviceClass, error) { return l, nil }

func (l classLister) Get(name string) (*resourceapi.DeviceClass, error) {
	for _, class := range l {
		if class.Name == name {
			return class, nil
		}
	}
	return nil, fmt.Errorf("deviceclass.resource.k8s.io %q not found", name)
}

func main() {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(make([]byte, 1<<20), 1<<30)
	output := bufio.NewWriter(os.Stdout)
	defer output.Flush()
	for input.Scan() {
		if err := json.NewEncoder(output).Encode(answerLine(input.Bytes())); err != nil {
			fmt.Fprintln(os.Stderr, "oracle: cannot encode an answer:", err)
			os.Exit(1)
		}
		output.Flush()
	}
	if err := input.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "oracle: cannot read cases:", err)
		os.Exit(1)
	}
}

func answerLine(line []byte) (result answer) {
	var c testCase
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return answer{Error: "decode: " + err.Error()}
	}
	defer func() {
		if r := recover(); r != nil {
			result = answer{ID: c.ID, Error: fmt.Sprintf("panic: %v", r)}
			if os.Getenv("ORACLE_STACK") != "" {
				result.Error += "\n" + string(debug.Stack())
			}
		}
	}()
	switch c.Kind {
	case "cel":
		return answerCEL(c)
	case "allocate":
		return answerAllocate(c)
	}
	return answer{ID: c.ID, Error: "unknown kind " + c.Kind}
}

// features sets the booleans by name; a name this release does not know is an error if it is on.
func setFeatures(target any, wanted map[string]bool) error {
	value := reflect.ValueOf(target).Elem()
	for name, on := range wanted {
		field := value.FieldByName(name)
		if binding := value.FieldByName("DeviceBinding"); name == "DeviceBindingAndStatus" && binding.IsValid() {
			// 1.34 has one feature for each of the two gates.
			binding.SetBool(on)
			if on {
				value.FieldByName("DeviceStatus").SetBool(true)
			}
			continue
		}
		if name == "DeviceStatus" && field.IsValid() {
			field.SetBool(on || wanted["DeviceBindingAndStatus"])
			continue
		}
		if !field.IsValid() {
			if on {
				return fmt.Errorf("unknown feature %s", name)
			}
			continue
		}
		field.SetBool(on)
	}
	return nil
}

// celFeatures sets those that this release has.
func celFeatures(wanted map[string]bool) (features dracel.Features) {
	value := reflect.ValueOf(&features).Elem()
	for name, on := range wanted {
		if field := value.FieldByName("Enable" + name); field.IsValid() {
			field.SetBool(on)
		}
	}
	return features
}

func answerCEL(c testCase) answer {
	result := answer{ID: c.ID}
	env := environment.StoredExpressions
	if c.Env == "new" {
		env = environment.NewExpressions
	}
	compiled := dracel.GetCompiler(celFeatures(c.Features)).CompileCELExpression(c.Expression, dracel.Options{
		EnvType: &env, CostLimit: c.CostLimit, DisableCostEstimation: true,
	})
	if compiled.Error != nil {
		result.CompileError = compiled.Error.Error()
		return result
	}
	result.OutputType = compiled.OutputType.String()
	for _, device := range c.Devices {
		var one deviceAnswer
		matches, details, err := compiled.DeviceMatches(context.Background(), dracel.Device{
			Driver: device.Driver, AllowMultipleAllocations: device.AllowMultipleAllocations,
			Attributes: device.Attributes, Capacity: device.Capacity,
		})
		if details != nil {
			one.Cost = details.ActualCost()
		}
		if err != nil {
			one.Error = enhanced(err).Error()
		} else {
			one.Match = &matches
		}
		result.Devices = append(result.Devices, one)
	}
	return result
}

func answerAllocate(c testCase) answer {
	result := answer{ID: c.ID}
	var features structured.Features
	if err := setFeatures(&features, c.Features); err != nil {
		result.Error = err.Error()
		return result
	}
	state := structured.AllocatedState{
		AllocatedDevices:         sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	for _, id := range c.Allocated.Devices {
		state.AllocatedDevices.Insert(structured.MakeDeviceID(id[0], id[1], id[2]))
	}
	for _, id := range c.Allocated.Shares {
		share := types.UID(id[3])
		state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(structured.MakeDeviceID(id[0], id[1], id[2]), &share))
	}
	for _, one := range c.Allocated.Capacity {
		state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(
			structured.MakeDeviceID(one.ID[0], one.ID[1], one.ID[2]), one.Consumed))
	}
	switch c.Variant {
	case "", "auto":
		enableAllocators()
	default:
		enableAllocators(c.Variant)
	}
	claims := make([]*resourceapi.ResourceClaim, 0, len(c.Claims))
	for _, name := range c.Claims {
		for _, claim := range c.Objects.ResourceClaims {
			if claim.Name == name {
				claims = append(claims, claim)
			}
		}
	}
	ctx := context.Background()
	allocator, err := structured.NewAllocator(ctx, features, state, classLister(c.Objects.DeviceClasses),
		c.Objects.ResourceSlices, dracel.NewCache(10, celFeatures(c.Features)))
	if err != nil {
		result.Error = err.Error()
		return result
	}
	before := int64(0)
	for _, name := range c.Nodes {
		var node *corev1.Node
		for _, n := range c.Objects.Nodes {
			if n.Name == name {
				node = n
			}
		}
		result.Nodes = append(result.Nodes, allocateNode(ctx, allocator, node, claims, c, &before))
	}
	return result
}

func allocateNode(ctx context.Context, allocator structured.Allocator, node *corev1.Node, claims []*resourceapi.ResourceClaim, c testCase, before *int64) (one nodeAnswer) {
	one.Name = node.Name
	if c.TimeoutMs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(c.TimeoutMs)*time.Millisecond)
		defer cancel()
	}
	defer func() {
		if r := recover(); r != nil {
			one.Outcome, one.Error = "panic", fmt.Sprint(r)
		}
		if stats := reflect.ValueOf(allocator).MethodByName("GetStats"); stats.IsValid() {
			one.Steps = -1 // The oldest variants do not count.
			if found := stats.Call(nil)[0]; found.Kind() != reflect.Pointer {
				total := found.FieldByName("NumAllocateOneInvocations").Int()
				one.Steps = total - *before
				*before = total
			}
		}
	}()
	loops := max(c.Loop, 1)
	begin := time.Now()
	var results []resourceapi.AllocationResult
	var err error
	for range loops {
		results, err = allocator.Allocate(ctx, node, claims)
	}
	if c.Loop > 0 {
		one.Nanos = time.Since(begin).Nanoseconds() / int64(loops)
	}
	switch {
	case err == nil && results == nil && len(claims) > 0:
		one.Outcome = "nofit"
	case err == nil:
		one.Outcome = "fit"
	case errors.Is(err, context.DeadlineExceeded):
		one.Outcome = "timeout"
	case isNodeError(err):
		one.Outcome = "nodeError"
	default:
		one.Outcome = "error"
	}
	if err != nil {
		one.Error = err.Error()
	}
	number := map[types.UID]types.UID{}
	for i := range results {
		for j := range results[i].Devices.Results {
			entry := &results[i].Devices.Results[j]
			if entry.ShareID != nil {
				share, known := number[*entry.ShareID]
				if !known {
					share = types.UID(fmt.Sprintf("share-%d", len(number)+1))
					number[*entry.ShareID] = share
				}
				entry.ShareID = &share
			}
		}
	}
	one.Results = results
	return one
}
