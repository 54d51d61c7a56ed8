{{/* Feature gates as the programs know them, made by deploy/helm/describe.py from nvdra.api.gates. */}}
{{- define "nvdra.gateTable" -}}
stages: {AllAlpha: group, AllBeta: group, ComputeDomainCliques: beta, ConsumableShares: alpha, ContextualLogging: beta, CrashOnNVLinkFabricErrors: beta,
  DRAListTypeAttributes: alpha, DeviceMetadata: alpha, DynamicMIG: alpha, FabricManagerPartitioning: alpha, HostManagedIMEXDaemon: alpha,
  IMEXDaemonsWithDNSNames: beta, LoggingAlphaOptions: alpha, LoggingBetaOptions: beta, MPSSupport: alpha, NVMLDeviceHealthCheck: alpha,
  PassthroughSupport: alpha, TimeSlicingSettings: alpha}
locked: {ContextualLogging: true}
checks:
- [ComputeDomainCliques, requires, IMEXDaemonsWithDNSNames]
- [DynamicMIG, excludes, PassthroughSupport]
- [DynamicMIG, supports, NVMLDeviceHealthCheck]
- [DynamicMIG, excludes, MPSSupport]
- [PassthroughSupport, excludes, NVMLDeviceHealthCheck]
- [DeviceMetadata, requires, PassthroughSupport]
unbuilt: {}
{{- end -}}
