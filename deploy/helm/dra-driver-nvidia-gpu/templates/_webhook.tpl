{{/* Parts of the webhook that need more than a line. */}}

{{/* The strategy. Older values ask for all pods to be replaced at once, which refuses claims meanwhile; that part of
them is taken as not said. */}}
{{- define "nvdra.webhookStrategy" -}}
{{- $strategy := deepCopy (.Values.webhook.strategy | default dict) -}}
{{- $rolling := $strategy.rollingUpdate | default dict -}}
{{- if eq (toString $rolling.maxUnavailable) "100%" -}}
{{- $strategy = set $strategy "rollingUpdate" (dict "maxSurge" 1 "maxUnavailable" 0) -}}
{{- end -}}
{{- if eq (toString $strategy.type) "Recreate" -}}
{{- $strategy = omit $strategy "rollingUpdate" -}}
{{- end -}}
{{- with $strategy -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{/*
The Secret of mode self-signed: the one that is there, or a new one.

New, if there is none, if it is for other names, if another `renewal` is asked for, or if two thirds of its time are
over. `ca.crt` of a new one holds the old authority too, so that pods are trusted until they have the new certificate.
The key of the authority is not kept: it signs once.
*/}}
{{- define "nvdra.webhookCertificate" -}}
{{- $name := printf "%s-webhook-self-signed" (include "nvdra.name" .) -}}
{{- $namespace := include "nvdra.namespace" . -}}
{{- $host := printf "%s-webhook.%s.svc" (include "nvdra.name" .) $namespace -}}
{{- $settings := .Values.webhook.tls.selfSigned | default dict -}}
{{- $days := int ($settings.validityDays | default 3650) -}}
{{- $renewal := $settings.renewal | default "" | toString -}}
{{- $prefix := "dra-driver-nvidia-gpu" -}}
{{- $there := lookup "v1" "Secret" $namespace $name | default dict -}}
{{- $data := $there.data | default dict -}}
{{- $notes := dig "metadata" "annotations" dict $there | default dict -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $isKept := and (index $data "tls.crt") (index $data "tls.key") (index $data "ca.crt") -}}
{{- $isKept = and $isKept (eq (index $notes (printf "%s/host" $prefix) | default "") $host) -}}
{{- $isKept = and $isKept (eq (index $notes (printf "%s/renewal" $prefix) | default "") $renewal) -}}
{{- $isKept = and $isKept (lt $now (index $notes (printf "%s/renew-after" $prefix) | default "0" | int64)) -}}
{{- if not $isKept -}}
{{- $old := regexFind "(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----" (index $data "ca.crt" | default "" | b64dec) -}}
{{- $authority := genCAWithKey (printf "%s-webhook" (include "nvdra.name" .)) $days (genPrivateKey "ecdsa") -}}
{{- $pair := genSignedCertWithKey $host nil (list $host (trimSuffix ".svc" $host)) $days $authority (genPrivateKey "ecdsa") -}}
{{- $bundle := $authority.Cert -}}
{{- with $old -}}{{- $bundle = printf "%s%s\n" $bundle . -}}{{- end -}}
{{- $data = dict "tls.crt" (b64enc $pair.Cert) "tls.key" (b64enc $pair.Key) "ca.crt" (b64enc $bundle) -}}
{{- $after := add $now (mul $days 57600) | toString -}}{{/* two thirds of a day's seconds, each day */}}
{{- $notes = dict (printf "%s/host" $prefix) $host (printf "%s/renewal" $prefix) $renewal (printf "%s/renew-after" $prefix) $after -}}
{{- end -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ $name }}
  namespace: {{ $namespace }}
  labels:
    {{- include "nvdra.labels" . | nindent 4 }}
  annotations:
    {{- range $key := list "host" "renewal" "renew-after" }}
    {{- $full := printf "%s/%s" $prefix $key }}
    {{ $full }}: {{ index $notes $full | quote }}
    {{- end }}
type: kubernetes.io/tls
data:
  {{- range $key := list "ca.crt" "tls.crt" "tls.key" }}
  {{ $key }}: {{ index $data $key }}
  {{- end }}
{{- end -}}
