{{/* Names, labels and images: what objects are called, and by what they find each other. */}}

{{- define "nvdra.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "nvdra.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $composed := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $composed .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "nvdra.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* The driver's namespace and those in which its controller may work too, as a comma list without repeats. */}}
{{- define "nvdra.namespaces" -}}
{{- $namespaces := list (include "nvdra.namespace" .) -}}
{{- range dig "containers" "computeDomain" "env" list (.Values.controller | default dict) | default list -}}
{{- if eq .name "ADDITIONAL_NAMESPACES" -}}
{{- range splitList "," (.value | default "") -}}
{{- $namespaces = append $namespaces (trim .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- compact $namespaces | uniq | join "," -}}
{{- end -}}

{{- define "nvdra.podLabels" -}}
app.kubernetes.io/name: {{ include "nvdra.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nvdra.labels" -}}
helm.sh/chart: {{ printf "%s-%s" (default .Chart.Name .Values.nameOverride) .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "nvdra.podLabels" . }}
{{- end -}}

{{/* (list context component) → the labels by which a workload knows its pods; one label, unless the user has others. */}}
{{- define "nvdra.selectorLabels" -}}
{{- $context := index . 0 -}}
{{- $ours := dict (printf "%s-component" (default $context.Chart.Name $context.Values.nameOverride)) (index . 1) -}}
{{- default $ours $context.Values.selectorLabelsOverride | toYaml -}}
{{- end -}}

{{- define "nvdra.image" -}}
{{- $image := .Values.image -}}
{{- printf "%s:%s" $image.repository (default (printf "v%s" .Chart.AppVersion) $image.tag | toString) -}}
{{- end -}}

{{/* Names of the pull secrets, as a comma list: for the pods that the programs make themselves. */}}
{{- define "nvdra.pullSecretNames" -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{/* (list settings ownName) → the service account to run as. */}}
{{- define "nvdra.accountName" -}}
{{- $settings := index . 0 -}}
{{- default (ternary (index . 1) "default" $settings.create) $settings.name -}}
{{- end -}}

{{- define "nvdra.pluginAccount" -}}
{{- include "nvdra.accountName" (list .Values.serviceAccount (printf "%s-service-account" (include "nvdra.fullname" .))) -}}-kubeletplugin
{{- end -}}

{{- define "nvdra.controllerAccount" -}}
{{- include "nvdra.accountName" (list .Values.serviceAccount (printf "%s-service-account" (include "nvdra.fullname" .))) -}}-controller
{{- end -}}

{{- define "nvdra.webhookAccount" -}}
{{- include "nvdra.accountName" (list .Values.webhook.serviceAccount (printf "%s-webhook-service-account" (include "nvdra.fullname" .))) -}}
{{- end -}}

{{/* (list context ownClass) → the priority class of a pod: the chart's, if it makes one. */}}
{{- define "nvdra.priorityClass" -}}
{{- $context := index . 0 -}}
{{- $class := $context.Values.priorityClass | default dict -}}
{{- if $class.create -}}
{{- default (include "nvdra.fullname" $context) $class.name -}}
{{- else -}}
{{- index . 1 | default "" -}}
{{- end -}}
{{- end -}}

{{/* ":8080" → 8080; nothing where no port can be read. */}}
{{- define "nvdra.port" -}}
{{- regexFind "[1-9][0-9]*$" (toString . | splitList ":" | last) -}}
{{- end -}}

{{/* A number as text. A whole number of a values file is a float to helm, whose own text is 1e+06. */}}
{{- define "nvdra.number" -}}
{{- if kindIs "invalid" . -}}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}
