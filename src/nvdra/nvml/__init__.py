"""NVML: a lease, a scan. Sole importer of the compiled binding."""
