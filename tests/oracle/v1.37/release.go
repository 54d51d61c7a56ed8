package main

import (
	"errors"

	dracel "k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

// enhanced is the error as this release words it for people.
func enhanced(err error) error { return dracel.EnhanceRuntimeError(err) }

// enableAllocators restricts the implementations by name, where this release can.
func enableAllocators(names ...string) { structured.EnableAllocators(names...) }

// isNodeError tells errors that concern one node only.
func isNodeError(err error) bool { return errors.Is(err, structured.ErrFailedAllocationOnNode) }
