package cel

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"k8s.io/apiserver/pkg/cel/environment"
)

// TestRecord writes the module's own table of expressions as cases of the differential tests.
func TestRecord(t *testing.T) {
	file, err := os.Create(os.Getenv("RECORD_FILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, tc := range testcases {
		env := "stored"
		if tc.envType != nil && *tc.envType == environment.NewExpressions {
			env = "new"
		}
		if err := json.NewEncoder(file).Encode(map[string]any{
			"id": "cel-table-" + name, "kind": "cel", "env": env, "features": on(tc), "expression": tc.expression,
			"devices": []any{map[string]any{
				"driver": tc.driver, "allowMultipleAllocations": tc.allowMultipleAllocations,
				"attributes": tc.attributes, "capacity": tc.capacity,
			}},
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// on is the features of a case, whichever way its release's table has them.
func on(tc any) map[string]bool {
	value := reflect.ValueOf(tc)
	features := map[string]bool{"ConsumableCapacity": true}
	if field := value.FieldByName("enableConsumableCapacity"); field.IsValid() {
		features["ConsumableCapacity"] = field.Bool()
	}
	if field := value.FieldByName("features"); field.IsValid() && !field.IsNil() {
		for i := range field.Elem().NumField() {
			name := field.Elem().Type().Field(i).Name
			features[name[len("Enable"):]] = field.Elem().Field(i).Bool()
		}
	}
	return features
}
