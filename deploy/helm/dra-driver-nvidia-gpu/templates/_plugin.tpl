{{/* The parts that the two plugin containers share. A literal list of variables each, so that a reader sees them all. */}}

{{/* (list program) → the shell's script. The program takes the shell's place: signals for process 1 reach it. */}}
{{- define "nvdra.pluginScript" -}}
# The masked copy goes to /tmp, for the image's own files may be read-only.
if [ "${MASK_NVIDIA_DRIVER_PARAMS}" = "true" ]; then
  sed 's/^ModifyDeviceFiles: 1$/ModifyDeviceFiles: 0/' /proc/driver/nvidia/params > /tmp/gpu-params
  mount --bind /tmp/gpu-params /proc/driver/nvidia/params
fi
exec {{ index . 0 }} -v $(LOG_VERBOSITY)
{{- end -}}

{{/* (list port liveness-period) → probes of the gRPC health service; none without a port that can be known. */}}
{{- define "nvdra.pluginProbes" -}}
{{- $port := int (index . 0) -}}
{{- if gt $port 0 -}}
startupProbe:
  grpc:
    port: {{ $port }}
    service: liveness
  periodSeconds: 1
  failureThreshold: 600
  timeoutSeconds: 10
livenessProbe:
  grpc:
    port: {{ $port }}
    service: liveness
  periodSeconds: {{ index . 1 }}
  failureThreshold: 3
  timeoutSeconds: 10
{{- end -}}
{{- end -}}

{{/* (list context endpoint health-port prefix) → the ports that the container listens on. */}}
{{- define "nvdra.pluginPorts" -}}
{{- $metrics := (index . 0).Values.kubeletPlugin.metrics | default dict -}}
{{- $port := include "nvdra.port" (index . 1 | default "") -}}
{{- if and $metrics.enabled $port }}
- name: {{ index . 3 }}-metrics
  containerPort: {{ $port }}
{{- end }}
{{- if gt (int (index . 2)) 0 }}
- name: {{ index . 3 }}-health
  containerPort: {{ int (index . 2) }}
{{- end }}
{{- end -}}

{{/* (list context endpoint) → variables of both containers, first part. */}}
{{- define "nvdra.pluginEnv" -}}
{{- $values := (index . 0).Values -}}
{{- with $values.kubeletPlugin.metrics }}
{{- if .enabled }}
- name: HTTP_ENDPOINT
  value: {{ index $ 1 | default "" | quote }}
- name: METRICS_PATH
  value: {{ .metricsPath | default "" | quote }}
{{- end }}
{{- end }}
- name: LOG_VERBOSITY
  value: {{ toString $values.logVerbosity | quote }}
- name: MASK_NVIDIA_DRIVER_PARAMS
  value: {{ $values.maskNvidiaDriverParams | default "" | toString | quote }}
- name: NVIDIA_DRIVER_ROOT
  value: {{ $values.nvidiaDriverRoot | quote }}
# An older runtime hook would else give the container what the image's own setting asks for.
- name: NVIDIA_VISIBLE_DEVICES
  value: void
- name: CDI_ROOT
  value: {{ include "nvdra.cdiRoot" (index . 0) | quote }}
- name: NVIDIA_MIG_CONFIG_DEVICES
  value: all
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
# Names this instance's sockets, so that the old pod of an update and the new one stand side by side.
- name: POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
{{- with $values.nvidiaCDIHookPath }}
- name: NVIDIA_CDI_HOOK_PATH
  value: {{ . | quote }}
{{- end }}
{{- with include "nvdra.featureGates" (index . 0) }}
- name: FEATURE_GATES
  value: {{ . | quote }}
{{- end }}
{{- with $values.kubeAPIQPS }}
- name: KUBE_API_QPS
  value: {{ include "nvdra.number" . | quote }}
{{- end }}
{{- with $values.kubeAPIBurst }}
- name: KUBE_API_BURST
  value: {{ include "nvdra.number" . | quote }}
{{- end }}
- name: KUBELET_REGISTRAR_DIRECTORY_PATH
  value: {{ $values.kubeletPlugin.kubeletRegistrarDirectoryPath | quote }}
- name: KUBELET_PLUGINS_DIRECTORY_PATH
  value: {{ $values.kubeletPlugin.kubeletPluginsDirectoryPath | quote }}
{{- end -}}

{{/* Variables of container `compute-domains`. */}}
{{- define "nvdra.computeDomainsEnv" -}}
{{- $container := .Values.kubeletPlugin.containers.computeDomains -}}
{{- $imex := include "nvdra.imex" . | fromYaml -}}
{{- include "nvdra.pluginEnv" (list . (.Values.kubeletPlugin.metrics | default dict).computeDomainHttpEndpoint) | trim }}
{{- if .Values.altProcDevices }}
- name: ALT_PROC_DEVICES_PATH
  value: /alt-proc-devices
{{- end }}
- name: IMEX_MODE
  value: {{ $imex.mode | quote }}
- name: IMEX_ISOLATION
  value: {{ $imex.isolation | quote }}
- name: IMEX_HOST_SOCKET_PATH
  value: {{ $imex.hostSocketPath | quote }}
{{- with (.Values.resources.computeDomains.imex | default dict).settings }}
- name: IMEX_SETTINGS
  value: {{ . | quote }}
{{- end }}
{{- with rest (splitList "," (include "nvdra.namespaces" .)) }}
# Daemons of other installations are served too.
- name: ADDITIONAL_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with $container.healthcheckPort | toString }}
- name: HEALTHCHECK_PORT
  value: {{ . | quote }}
{{- end }}
- name: GPU_CLIQUE_LABEL_ENABLED
  value: {{ $container.gpuCliqueLabelEnabled | default false | toString | quote }}
{{- end -}}

{{/* Variables of container `gpus`. */}}
{{- define "nvdra.gpusEnv" -}}
{{- include "nvdra.pluginEnv" (list . (.Values.kubeletPlugin.metrics | default dict).gpuHttpEndpoint) | trim }}
{{- if include "nvdra.gate" (list . "PassthroughSupport") }}
- name: HOST_ROOT
  value: /host-root
{{- end }}
- name: SERVICE_ACCOUNT_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.serviceAccountName
# The four of them are for the pods of MPS control daemons, which the plugin makes.
- name: IMAGE_NAME
  value: {{ include "nvdra.image" . | quote }}
{{- with include "nvdra.pullSecretNames" . }}
- name: IMAGE_PULL_SECRETS
  value: {{ . | quote }}
{{- end }}
- name: IMAGE_PULL_POLICY
  value: {{ .Values.image.pullPolicy | quote }}
{{- with .Values.consumableShares }}
- name: CONSUMABLE_SHARES
  value: {{ toString . | quote }}
{{- end }}
{{- with .Values.additionalXidsToIgnore }}
- name: ADDITIONAL_XIDS_TO_IGNORE
  value: {{ toString . | quote }}
{{- end }}
{{- with .Values.mpsComputeMode }}
- name: MPS_COMPUTE_MODE
  value: {{ . | quote }}
{{- end }}
{{- if .Values.mpsUnderShares }}
- name: MPS_UNDER_SHARES
  value: "true"
{{- end }}
{{- if .Values.topologyAttributes }}
- name: TOPOLOGY_ATTRIBUTES
  value: "true"
{{- end }}
{{- with include "nvdra.coexistenceGuard" . }}
- name: COEXISTENCE_GUARD
  value: {{ . | quote }}
- name: POD_RESOURCES_SOCKET
  value: {{ printf "%s/kubelet.sock" (include "nvdra.podResources" $) | quote }}
{{- end }}
{{- if .Values.claimStatus }}
- name: CLAIM_STATUS
  value: "true"
{{- end }}
{{- if .Values.claimEvents }}
- name: CLAIM_EVENTS
  value: "true"
{{- end }}
{{- with (.Values.kubeletPlugin.metrics | default dict).profilePath }}
- name: PPROF_PATH
  value: {{ . | quote }}
{{- end }}
{{- with .Values.kubeletPlugin.containers.gpus.healthcheckPort | toString }}
- name: HEALTHCHECK_PORT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/*
(list chart's user's) → a container's variables, each once: the user's in place of the chart's of the same name.
Kubernetes takes the last of two, but the patch of an upgrade is made by name: a second entry would be lost in it.
*/}}
{{- define "nvdra.env" -}}
{{- $users := index . 1 | default list -}}
{{- $names := list -}}
{{- range $users }}{{ $names = append $names .name }}{{ end -}}
{{- $variables := list -}}
{{- range index . 0 | fromYamlArray -}}
{{- if not (has .name $names) }}{{ $variables = append $variables . }}{{ end -}}
{{- end -}}
{{- concat $variables $users | toYaml -}}
{{- end -}}

{{/* Where CDI files go, on the host and in the containers alike; --reuse-values has none of it. */}}
{{- define "nvdra.cdiRoot" -}}
{{- .Values.cdiRoot | default "/var/run/cdi" | trimSuffix "/" -}}
{{- end -}}

{{/* Propagation of the driver root: what is mounted below it later is seen. All of / need not be a shared mount. */}}
{{- define "nvdra.driverRootPropagation" -}}
{{- if ne "/" .Values.nvidiaDriverRoot -}}
mountPropagation: HostToContainer
{{- end -}}
{{- end -}}

{{/* (list context name) → mounts of both containers, first part. */}}
{{- define "nvdra.pluginMounts" -}}
{{- $plugin := (index . 0).Values.kubeletPlugin -}}
- name: plugins-registry
  mountPath: {{ $plugin.kubeletRegistrarDirectoryPath | quote }}
- name: plugins
  mountPath: {{ $plugin.kubeletPluginsDirectoryPath | quote }}
  mountPropagation: Bidirectional
- name: cdi
  mountPath: {{ include "nvdra.cdiRoot" (index . 0) | quote }}
- name: tmp
  mountPath: /tmp
  # Each container dumps its stacks to the same path.
  subPath: {{ index . 1 }}
{{- end -}}

{{/* The strategy. Kubernetes takes maxSurge or maxUnavailable, not both, and neither with OnDelete. */}}
{{- define "nvdra.updateStrategy" -}}
{{- $strategy := deepCopy (.Values.kubeletPlugin.updateStrategy | default dict) -}}
{{- if eq (toString $strategy.type) "OnDelete" -}}
{{- $strategy = omit $strategy "rollingUpdate" -}}
{{- else if $strategy.rollingUpdate -}}
{{- $unavailable := $strategy.rollingUpdate.maxUnavailable | default 0 | toString | trimSuffix "%" -}}
{{- if ne $unavailable "0" -}}
{{- $strategy = set $strategy "rollingUpdate" (omit $strategy.rollingUpdate "maxSurge") -}}
{{- end -}}
{{- end -}}
{{- with $strategy -}}
updateStrategy:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}
