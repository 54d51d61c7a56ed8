{{/*
What cannot work is refused before anything is installed. The first lines are the Go driver's, word for word: people
and tools look for them.
*/}}
{{- define "nvdra.refusals" -}}

{{- with .Values.namespace }}
{{- fail (printf `
Value 'namespace' set to %s
Setting an explicit 'namespace' in values.yaml or via --set on the command line is no longer supported.
Use --namespace (with --create-namespace as necessary) instead.
See: https://helm.sh/docs/helm/helm_install/#options` .) }}
{{- end }}

{{- if and (eq .Release.Namespace "default") (not .Values.namespaceOverride) (not .Values.allowDefaultNamespace) }}
{{- fail `
Running in the 'default' namespace is not recommended.
Set 'allowDefaultNamespace=true' to bypass this error.
Otherwise, use --namespace (with --create-namespace as necessary) to run in a specific namespace.
See: https://helm.sh/docs/helm/helm_install/#options` }}
{{- end }}

{{- if and .Values.resources.gpus.enabled (not .Values.gpuResourcesEnabledOverride) }}
{{- fail `
The default value of 'resources.gpus.enabled == true'. This driver and NVIDIA's device plugin must not serve the GPUs of one node: each would hand out what the other has given away. So the default does not take effect by itself before KEP 5004 has reached GA in Kubernetes.

If no device plugin serves the GPUs of these nodes, say so:

    --set 'gpuResourcesEnabledOverride=true'

KEP 5004 lets the driver serve requests for the extended resource 'nvidia.com/gpu' too, which leaves the device plugin without a task. To try it on Kubernetes v1.35 or newer, turn on the feature gate 'DRAExtendedResource' of kube-apiserver, kube-scheduler, kube-controller-manager and kubelet.` }}
{{- end }}

{{- if .Values.nvidiaCtkPath }}
{{- fail `
Setting a user-defined nvidiaCtkPath is no longer supported. It can simply be removed without consequence.
It named the program 'nvidia-ctk' of the host, which ran the hooks of containers. The driver installs 'nvidia-cdi-hook' for that itself.` }}
{{- end }}

{{- with .Values.webhook }}
{{- if .enabled }}
{{- if not .tls }}
{{- fail `
Webhook TLS configuration is required when webhook is enabled.
Please configure webhook.tls.mode and related settings.` }}
{{- end }}
{{- $mode := toString (.tls.mode | default "") }}
{{- if not $mode }}
{{- fail `
Webhook TLS mode is required when webhook is enabled.
Set webhook.tls.mode to either 'cert-manager' or 'secret'.
Or set it to 'self-signed': helm makes the certificate.` }}
{{- else if not (has $mode (list "cert-manager" "secret" "self-signed")) }}
{{- fail (printf `
Invalid webhook TLS mode: %s
Webhook TLS mode must be either 'cert-manager' or 'secret'.
Or 'self-signed': helm makes the certificate.` $mode) }}
{{- end }}
{{- if eq $mode "cert-manager" }}
{{- if not .tls.certManager }}
{{- fail `
Cert-manager configuration is required when using cert-manager mode.
Please configure webhook.tls.certManager settings.` }}
{{- end }}
{{- $issuer := toString (.tls.certManager.issuerType | default "") }}
{{- if not $issuer }}
{{- fail `
Cert-manager issuer type is required when using cert-manager mode.
Set webhook.tls.certManager.issuerType to 'selfsigned', 'clusterissuer', or 'issuer'.` }}
{{- else if not (has $issuer (list "selfsigned" "clusterissuer" "issuer")) }}
{{- fail (printf `
Invalid cert-manager issuer type: %s
Issuer type must be 'selfsigned', 'clusterissuer', or 'issuer'.` $issuer) }}
{{- else if and (ne $issuer "selfsigned") (not .tls.certManager.issuerName) }}
{{- fail `
Cert-manager issuer name is required when issuer type is not 'selfsigned'.
Set webhook.tls.certManager.issuerName to the name of your issuer.` }}
{{- end }}
{{- else if eq $mode "secret" }}
{{- if not .tls.secret }}
{{- fail `
Secret configuration is required when using secret mode.
Please configure webhook.tls.secret settings.` }}
{{- else if not .tls.secret.name }}
{{- fail `
Secret name is required when using secret mode.
Set webhook.tls.secret.name to the name of your TLS secret.` }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- $cdiRoot := include "nvdra.cdiRoot" . }}
{{- if or (not (hasPrefix "/" $cdiRoot)) (contains "/../" (printf "%s/" $cdiRoot)) }}
{{- fail (printf "\ncdiRoot=%s is no absolute path of a folder on the host." $cdiRoot) }}
{{- else if regexMatch "^(|/(etc|run|tmp|var|var/run|var/lib|home|root|driver-root.*|host-root.*)|/(bin|boot|dev|lib|lib64|opt|proc|sbin|sys|tmp|usr)(/.*)?)$" $cdiRoot }}
{{- fail (printf "\ncdiRoot=%s would lie over files of the image or of the node: name a folder for CDI files alone, for instance /var/run/cdi or /etc/cdi." $cdiRoot) }}
{{- end }}
{{- range $name, $container := .Values.kubeletPlugin.containers }}
{{- range $container.env }}
{{- if and (eq .name "CDI_ROOT") (ne (toString .value) $cdiRoot) }}
{{- fail (printf "\nkubeletPlugin.containers.%s.env sets CDI_ROOT=%v, which leads into the image: no container runtime would see the files.\nSet cdiRoot, which mounts the folder too." $name .value) }}
{{- end }}
{{- end }}
{{- end }}

{{- $kubelet := .Values.kubeletPlugin }}
{{- if ne (eq $kubelet.kubeletRegistrarDirectoryPath "/var/lib/kubelet/plugins_registry") (eq $kubelet.kubeletPluginsDirectoryPath "/var/lib/kubelet/plugins") }}
{{- fail (printf `
Only one of kubelet's two folders was moved: kubeletPlugin.kubeletRegistrarDirectoryPath=%s, kubeletPlugin.kubeletPluginsDirectoryPath=%s
Both lie below kubelet's --root-dir: set both.` $kubelet.kubeletRegistrarDirectoryPath $kubelet.kubeletPluginsDirectoryPath) }}
{{- end }}

{{- if not (include "nvdra.resourceApiVersion" .) }}
{{- fail `
No supported resource.k8s.io API version found in the cluster.
This chart requires one of: resource.k8s.io/v1, resource.k8s.io/v1beta1, or resource.k8s.io/v1beta2.
Please ensure your cluster supports Dynamic Resource Allocation (DRA) with one of these API versions.` }}
{{- end }}

{{- if .Values.resources.computeDomains.enabled }}
{{- $imex := include "nvdra.imex" . | fromYaml }}
{{- $mode := toString $imex.mode }}
{{- $isolation := toString $imex.isolation }}
{{- if eq $mode "hostManaged" }}
{{- if not (include "nvdra.gate" (list . "HostManagedIMEXDaemon")) }}
{{- fail "resources.computeDomains.imex.mode=hostManaged requires featureGates.HostManagedIMEXDaemon=true" }}
{{- end }}
{{- else if ne $mode "driverManaged" }}
{{- fail (printf "unknown resources.computeDomains.imex.mode %q: must be \"driverManaged\" or \"hostManaged\"" $mode) }}
{{- end }}
{{- if eq $isolation "channel" }}
{{- fail "resources.computeDomains.imex.isolation=channel is not supported yet: per-workload IMEX channel allocation is not implemented. Use the default, \"domain\"." }}
{{- else if not (has $isolation (list "" "domain")) }}
{{- fail (printf "unknown resources.computeDomains.imex.isolation %q: must be \"domain\" or \"channel\"" $isolation) }}
{{- end }}
{{- end }}

{{- if and .Values.resources.computeDomains.enabled (not .Values.resources.gpus.enabled) (not (include "nvdra.hasComputeDomains" .)) }}
{{- fail `
Nothing to install: 'resources.gpus.enabled=false' leaves only ComputeDomains, and their programs are not in the image of this release yet.
Set resources.gpus.enabled=true, or keep the driver that serves your ComputeDomains now.` }}
{{- end }}

{{- $numbers := dict
  "kubeAPIQPS" (list .Values.kubeAPIQPS "a number" "|[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]{1,2})?")
  "kubeAPIBurst" (list .Values.kubeAPIBurst "a whole number" "|[+-]?[0-9]+")
  "logVerbosity" (list .Values.logVerbosity "a whole number" "[0-9]+")
  "kubeletPlugin.containers.gpus.healthcheckPort" (list (($kubelet.containers).gpus).healthcheckPort "a port" "|[+-]?[0-9]{1,5}")
}}
{{- $addresses := dict "kubeletPlugin.metrics.gpuHttpEndpoint" ($kubelet.metrics).gpuHttpEndpoint }}
{{- with .Values.webhook }}
{{- if .enabled }}
{{- $_ := set $numbers "webhook.containerPort" (list .containerPort "a port" "|[0-9]{1,5}") }}
{{- $_ := set $addresses "webhook.metrics.httpEndpoint" (.metrics).httpEndpoint }}
{{- end }}
{{- end }}
{{- range $name, $check := $numbers }}
{{- $text := include "nvdra.number" (index $check 0) }}
{{- if not (regexMatch (printf "^(%s)$" (index $check 2)) $text) }}
{{- fail (printf "\n%s=%s is not %s." $name $text (index $check 1)) }}
{{- end }}
{{- end }}
{{- range $name, $address := $addresses }}
{{- $port := splitList ":" (toString $address) | last }}
{{- if and $address (or (not (contains ":" $address)) (not (regexMatch "^[0-9]{1,5}$" $port)) (gt (int $port) 65535)) }}
{{- fail (printf "\n%s=%s is not of the form host:port or :port." $name $address) }}
{{- end }}
{{- end }}

{{- /* What the programs would refuse when they start, with their texts: better now than in a restarting pod. */}}
{{- $table := include "nvdra.gateTable" . | fromYaml }}
{{- range $gate, $value := .Values.featureGates }}
{{- $text := toString $value }}
{{- if not (hasKey $table.stages $gate) }}
{{- fail (printf "\nunrecognized feature gate: %s\nSee value featureGates; there are %s." $gate (keys $table.stages | sortAlpha | join ", ")) }}
{{- else if not (has $text (list "1" "t" "T" "TRUE" "true" "True" "0" "f" "F" "FALSE" "false" "False")) }}
{{- fail (printf "\ninvalid value of %s=%s, err: neither true nor false" $gate $text) }}
{{- else if and (hasKey $table.locked $gate) (ne (include "nvdra.isTrue" $value) (include "nvdra.isTrue" (get $table.locked $gate))) }}
{{- fail (printf "\ncannot set feature gate %s to %s, feature is locked to %v" $gate (include "nvdra.isTrue" $value | default "false") (get $table.locked $gate)) }}
{{- end }}
{{- end }}
{{- range $table.checks }}
{{- $gate := index . 0 }}
{{- $other := index . 2 }}
{{- if include "nvdra.gate" (list $ $gate) }}
{{- $otherIsOn := include "nvdra.gate" (list $ $other) }}
{{- if and (eq (index . 1) "requires") (not $otherIsOn) }}
{{- fail (printf "\nfeature gate %s requires %s to also be enabled" $gate $other) }}
{{- else if and (eq (index . 1) "excludes") $otherIsOn }}
{{- fail (printf "\nfeature gate %s is currently mutually exclusive with %s" $gate $other) }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "nvdra.gpus" . }}
{{- range get $table.unbuilt "gpu-kubelet-plugin" | default list }}
{{- if include "nvdra.gate" (list $ .) }}
{{- fail (printf "\ngpu-kubelet-plugin does not support feature gate %s yet: turn it off in value featureGates, or run the Go driver for it" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not (regexMatch "^[0-9, ]*$" (toString (.Values.additionalXidsToIgnore | default ""))) }}
{{- fail (printf "\ninvalid value for --additional-xids-to-ignore: %q (must be a comma list of numbers)\nSee value additionalXidsToIgnore." (toString .Values.additionalXidsToIgnore)) }}
{{- end }}
{{- if not (has (.Values.mpsComputeMode | default "exclusive") (list "exclusive" "unchanged")) }}
{{- fail (printf "\ninvalid value for --mps-compute-mode: %q (must be exclusive or unchanged)\nSee value mpsComputeMode." .Values.mpsComputeMode) }}
{{- end }}
{{- if and .Values.mpsUnderShares (not (and (include "nvdra.gate" (list . "MPSSupport")) (include "nvdra.gate" (list . "ConsumableShares")))) }}
{{- fail "\nmpsUnderShares needs featureGates.MPSSupport=true and featureGates.ConsumableShares=true\nTurn both on, or leave mpsUnderShares false." }}
{{- end }}
{{- if not (has (include "nvdra.coexistenceGuard" . | default "off") (list "off" "warn" "enforce")) }}
{{- fail (printf "\ninvalid value for --coexistence-guard: %q (must be off, warn or enforce)\nSee value coexistenceGuard." (toString .Values.coexistenceGuard)) }}
{{- end }}
{{- if and (dig "metrics" "profilePath" "" .Values.kubeletPlugin) (not (dig "metrics" "enabled" false .Values.kubeletPlugin)) }}
{{- fail "\nkubeletPlugin.metrics.profilePath is set, but kubeletPlugin.metrics.enabled=false: there is no server for it.\nSet kubeletPlugin.metrics.enabled=true, or leave profilePath empty." }}
{{- end }}
{{- $shares := toString (.Values.consumableShares | default "disabled") }}
{{- if ne $shares "disabled" }}
{{- if not (include "nvdra.gate" (list . "ConsumableShares")) }}
{{- fail "\n--consumable-shares requires feature gate ConsumableShares to be enabled\nSet featureGates.ConsumableShares=true, or leave consumableShares empty." }}
{{- else if not (regexMatch "^(memory|unlimited|[+]?0*[1-9][0-9]*)$" $shares) }}
{{- fail (printf "\ninvalid value for --consumable-shares: %q (must be 'disabled', 'memory', 'unlimited', or a positive integer)\nSee value consumableShares." $shares) }}
{{- end }}
{{- end }}
{{- end -}}
