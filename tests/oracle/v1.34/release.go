package main

// enhanced is the error as this release words it for people.
func enhanced(err error) error { return err }

// enableAllocators restricts the implementations by name, where this release can.
func enableAllocators(names ...string) {}

// isNodeError tells errors that concern one node only; this release has none.
func isNodeError(error) bool { return false }
