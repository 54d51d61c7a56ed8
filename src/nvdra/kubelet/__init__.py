"""kubelet: DRA plugin, registration and health over gRPC."""
