{{/* What is on: programs, gates, API versions. A helper that answers yes says "true", one that answers no says nothing. */}}

{{/* (list context program...) → whether the image of this release has all of these programs. */}}
{{- define "nvdra.has" -}}
{{- $there := splitList " " (index (first .).Chart.Annotations "dra-driver-nvidia-gpu/programs") -}}
{{- $missing := "" -}}
{{- range rest . -}}
{{- if not (has . $there) -}}{{- $missing = . -}}{{- end -}}
{{- end -}}
{{- if not $missing -}}true{{- end -}}
{{- end -}}

{{- define "nvdra.gpus" -}}
{{- if and .Values.resources.gpus.enabled (include "nvdra.has" (list . "gpu-kubelet-plugin")) -}}true{{- end -}}
{{- end -}}

{{- define "nvdra.hasComputeDomains" -}}
{{- include "nvdra.has" (list . "compute-domain-controller" "compute-domain-daemon" "compute-domain-kubelet-plugin") -}}
{{- end -}}

{{- define "nvdra.computeDomains" -}}
{{- if and .Values.resources.computeDomains.enabled (include "nvdra.hasComputeDomains" .) -}}true{{- end -}}
{{- end -}}

{{- define "nvdra.plugin" -}}
{{- if or (include "nvdra.gpus" .) (include "nvdra.computeDomains" .) -}}true{{- end -}}
{{- end -}}

{{/* The IMEX settings as YAML, complete even if the values are those of an older chart (helm upgrade --reuse-values). */}}
{{- define "nvdra.imex" -}}
{{- $imex := .Values.resources.computeDomains.imex | default dict -}}
{{- range $key, $default := dict "mode" "driverManaged" "isolation" "domain" "hostSocketPath" "/etc/nvidia-imex/imex_ctrl.sock" }}
{{ $key }}: {{ ternary (get $imex $key) $default (hasKey $imex $key) | toString | quote }}
{{- end -}}
{{- end -}}

{{- define "nvdra.hostManaged" -}}
{{- if eq (toString (include "nvdra.imex" . | fromYaml).mode) "hostManaged" -}}true{{- end -}}
{{- end -}}

{{- define "nvdra.isTrue" -}}
{{- if has (toString .) (list "1" "t" "T" "TRUE" "true" "True") -}}true{{- end -}}
{{- end -}}

{{/* (list context gate) → whether the gate is on: named itself, or by its stage's group, or by default. Alpha gates are
off, beta gates on, unless said otherwise. */}}
{{- define "nvdra.gate" -}}
{{- $asked := (index . 0).Values.featureGates | default dict -}}
{{- $gate := index . 1 -}}
{{- $stage := get (include "nvdra.gateTable" . | fromYaml).stages $gate -}}
{{- $group := ternary "AllAlpha" "AllBeta" (eq $stage "alpha") -}}
{{- if hasKey $asked $gate -}}
{{- include "nvdra.isTrue" (get $asked $gate) -}}
{{- else if hasKey $asked $group -}}
{{- include "nvdra.isTrue" (get $asked $group) -}}
{{- else if eq $stage "beta" -}}
true
{{- end -}}
{{- end -}}

{{/* The gates as the programs take them. */}}
{{- define "nvdra.featureGates" -}}
{{- range $gate, $value := .Values.featureGates }}{{ $gate }}={{ $value }},{{ end -}}
{{- end -}}

{{/* The API version of DeviceClasses; nothing if the cluster has none that we know. */}}
{{- define "nvdra.resourceApiVersion" -}}
{{- $found := .Values.resourceApiVersion | default "" -}}
{{- range list "resource.k8s.io/v1" "resource.k8s.io/v1beta2" "resource.k8s.io/v1beta1" -}}
{{- if and (not $found) ($.Capabilities.APIVersions.Has .) -}}{{- $found = . -}}{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* The coexistence guard's mode; nothing where it is off. YAML reads a bare `off` as false. */}}
{{- define "nvdra.coexistenceGuard" -}}
{{- $mode := .Values.coexistenceGuard | default "off" | toString -}}
{{- if not (has $mode (list "off" "false")) -}}{{- $mode -}}{{- end -}}
{{- end -}}

{{/* The folder of the PodResources API; --reuse-values has none of it. */}}
{{- define "nvdra.podResources" -}}
{{- .Values.kubeletPlugin.kubeletPodResourcesDirectoryPath | default "/var/lib/kubelet/pod-resources" | trimSuffix "/" -}}
{{- end -}}

{{/* What the user says of OpenShift; nothing where the API is to say it. */}}
{{- define "nvdra.openshift" -}}
{{- if hasKey .Values "openshift" -}}{{- toString .Values.openshift -}}{{- end -}}
{{- end -}}

{{- define "nvdra.isOpenShift" -}}
{{- $said := include "nvdra.openshift" . -}}
{{- if $said -}}
{{- include "nvdra.isTrue" $said -}}
{{- else if or (.Capabilities.APIVersions.Has "security.openshift.io/v1") (.Capabilities.APIVersions.Has "security.openshift.io/v1/SecurityContextConstraints") -}}
true
{{- end -}}
{{- end -}}
