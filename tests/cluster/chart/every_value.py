"""For every documented value what it does: the table that holds the documentation to the templates."""

from __future__ import annotations

from tests.cluster.chart.effects import (
    AFFINITY,
    DNS,
    LABELS,
    POD,
    Effect,
    at,
    component,
    container,
    controller,
    egress,
    env,
    host_path,
    kubelet_plugin,
    monitor,
    object_of,
    of_container,
    port,
    valid_days,
    webhook,
)
from tests.cluster.chart.rendering import NAME

FULL = f"dra-{NAME}"
ENV = [{"name": "LOG_VERBOSITY", "value": "6"}]
PULL_SECRETS = [{"name": "a"}, {"name": "b"}]
HOST_MANAGED = {"featureGates.HostManagedIMEXDaemon": True}
WEBHOOK = {"webhook.enabled": True}
ISSUER = "webhook.tls.certManager"
CLUSTER_ISSUER = {**WEBHOOK, f"{ISSUER}.issuerType": "clusterissuer", f"{ISSUER}.issuerName": "mine"}
OWN_SECRET = {**WEBHOOK, "webhook.tls.mode": "secret", "webhook.tls.secret.name": "mine"}
SELF_SIGNED = {**WEBHOOK, "webhook.tls.mode": "self-signed"}
TWO = {**WEBHOOK, "webhook.replicas": 2}
CLASS = {"priorityClass.create": True}
DASHBOARD = {"grafanaDashboard.enabled": True}
GUARD = {"coexistenceGuard": "enforce"}
POD_RESOURCES = "/var/lib/kubelet/pod-resources"
MOVED = {
    "kubeletPlugin.kubeletRegistrarDirectoryPath": "/k/plugins_registry",
    "kubeletPlugin.kubeletPluginsDirectoryPath": "/k/plugins",
}
HOOKS = "ValidatingWebhookConfiguration"

EFFECTS = [
    Effect("nvidiaDriverRoot", "/run/nvidia/driver", env("NVIDIA_DRIVER_ROOT"), "/run/nvidia/driver"),
    Effect("cdiRoot", "/etc/cdi", env("CDI_ROOT"), "/etc/cdi"),
    Effect("cdiRoot", "/etc/cdi", host_path("cdi"), "/etc/cdi"),
    Effect(
        "openshift",
        True,
        lambda r: f"{NAME}-openshift-privileged-role-binding-kubeletplugin" in r.all("ClusterRoleBinding"),
        True,
    ),
    Effect("nvidiaCDIHookPath", "/hook", env("NVIDIA_CDI_HOOK_PATH"), "/hook"),
    Effect("nvidiaCDIHookPath", "/hook", env("NVIDIA_CDI_HOOK_PATH", "compute-domains"), "/hook"),
    Effect("altProcDevices", "/mock", env("ALT_PROC_DEVICES_PATH", "compute-domains"), "/alt-proc-devices"),
    Effect("altProcDevices", "/mock", host_path("alt-proc-devices"), "/mock"),
    Effect("nameOverride", "mine", kubelet_plugin("metadata", "name"), "mine-kubelet-plugin"),
    Effect("nameOverride", "mine", kubelet_plugin("metadata", "labels", "app.kubernetes.io/name"), "mine"),
    Effect(
        "nameOverride",
        "mine",
        kubelet_plugin("spec", "selector", "matchLabels"),
        {"mine-component": "kubelet-plugin"},
    ),
    Effect(
        "nameOverride",
        "mine",
        lambda r: at(
            r.all("Deployment").get("mine-controller"),
            (
                *(*POD, "affinity", "podAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
                *("0", "podAffinityTerm", "labelSelector", "matchLabels"),
            ),
        ),
        {"mine-component": "controller"},
    ),
    Effect(
        "fullnameOverride", "mine", kubelet_plugin(*POD, "serviceAccountName"), "mine-service-account-kubeletplugin"
    ),
    Effect("namespaceOverride", "other", kubelet_plugin("metadata", "namespace"), "other"),
    Effect(
        "selectorLabelsOverride",
        LABELS,
        kubelet_plugin("spec", "selector", "matchLabels"),
        LABELS,
        {"resources.computeDomains.enabled": False},
    ),
    Effect("consumableShares", "memory", env("CONSUMABLE_SHARES"), "memory", {"featureGates.ConsumableShares": True}),
    Effect("additionalXidsToIgnore", "94,95", env("ADDITIONAL_XIDS_TO_IGNORE"), "94,95"),
    Effect("mpsComputeMode", "unchanged", env("MPS_COMPUTE_MODE"), "unchanged"),
    Effect(
        "mpsUnderShares",
        True,
        env("MPS_UNDER_SHARES"),
        "true",
        {"featureGates.MPSSupport": True, "featureGates.ConsumableShares": True},
    ),
    Effect("topologyAttributes", True, env("TOPOLOGY_ATTRIBUTES"), "true"),
    Effect(
        "topologyAttributes",
        True,
        object_of("DeviceClass", "spec", "selectors", "0", "cel", "expression", name="nvlink.gpu.nvidia.com"),
        "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'gpu' && "
        "'nvlinkDomain' in device.attributes['gpu.nvidia.com']",
    ),
    *(Effect("coexistenceGuard", mode, env("COEXISTENCE_GUARD"), mode) for mode in ("warn", "enforce")),
    Effect("coexistenceGuard", "warn", env("POD_RESOURCES_SOCKET"), f"{POD_RESOURCES}/kubelet.sock"),
    Effect("coexistenceGuard", "warn", host_path("pod-resources"), POD_RESOURCES),
    Effect("claimStatus", True, env("CLAIM_STATUS"), "true"),
    Effect("claimEvents", True, env("CLAIM_EVENTS"), "true"),
    Effect("grafanaDashboard.enabled", True, lambda r: f"{NAME}-dashboard" in r.all("ConfigMap"), True),
    Effect("grafanaDashboard.labels", LABELS, object_of("ConfigMap", "metadata", "labels", "mine"), "yes", DASHBOARD),
    Effect(
        "grafanaDashboard.annotations", LABELS, object_of("ConfigMap", "metadata", "annotations"), LABELS, DASHBOARD
    ),
    Effect("kubeAPIQPS", 50, env("KUBE_API_QPS"), "50"),
    Effect("kubeAPIBurst", 100, env("KUBE_API_BURST", "compute-domains"), "100"),
    Effect(
        "resourceApiVersion",
        "resource.k8s.io/v1beta1",
        object_of("DeviceClass", "apiVersion"),
        "resource.k8s.io/v1beta1",
    ),
    Effect("imagePullSecrets", PULL_SECRETS, env("IMAGE_PULL_SECRETS"), "a,b"),
    Effect(
        "imagePullSecrets",
        PULL_SECRETS,
        env("CD_DAEMON_IMAGE_PULL_SECRET_NAMES", "compute-domain"),
        "a,b",
    ),
    Effect("imagePullSecrets", [{"name": "a"}], kubelet_plugin(*POD, "imagePullSecrets"), [{"name": "a"}]),
    Effect("image.repository", "mine/image", lambda r: r.container()["image"].split(":")[0], "mine/image"),
    Effect("image.pullPolicy", "Always", container("gpus", "imagePullPolicy"), "Always"),
    Effect("image.pullPolicy", "Always", env("IMAGE_PULL_POLICY"), "Always"),
    Effect("image.tag", "other", lambda r: r.env()["IMAGE_NAME"].split(":")[1], "other"),
    Effect("image.tag", 7, lambda r: r.container("init-container")["image"].split(":")[1], "7"),
    Effect(
        "serviceAccount.create",
        False,
        lambda r: "ClusterRole" in {o["kind"] for o in r.objects},
        False,
        {"resources.computeDomains.enabled": False},
    ),
    Effect("serviceAccount.create", False, kubelet_plugin(*POD, "serviceAccountName"), "default-kubeletplugin"),
    Effect("serviceAccount.create", False, controller(*POD, "serviceAccountName"), "default-controller"),
    Effect(
        "serviceAccount.annotations",
        LABELS,
        object_of("ServiceAccount", "metadata", "annotations", name=f"{FULL}-service-account-kubeletplugin"),
        LABELS,
    ),
    Effect(
        "serviceAccount.annotations",
        LABELS,
        object_of("ServiceAccount", "metadata", "annotations", name=f"{FULL}-service-account-controller"),
        LABELS,
    ),
    Effect("serviceAccount.name", "mine", kubelet_plugin(*POD, "serviceAccountName"), "mine-kubeletplugin"),
    Effect("resources.gpus.enabled", False, lambda r: "gpus" in [c["name"] for c in r.pod["containers"]], False),
    Effect("resources.gpus.enabled", False, lambda r: "gpu.nvidia.com" in r.all("DeviceClass"), False),
    Effect("resources.computeDomains.enabled", False, lambda r: [c["name"] for c in r.pod["containers"]], ["gpus"]),
    Effect("resources.computeDomains.enabled", False, lambda r: len(r.all("Deployment")), 0),
    Effect(
        "resources.computeDomains.imex.mode",
        "hostManaged",
        lambda r: "compute-domain-daemon.nvidia.com" in r.all("DeviceClass"),
        False,
        HOST_MANAGED,
    ),
    Effect(
        "resources.computeDomains.imex.mode",
        "hostManaged",
        lambda r: "compute-domain-daemon-role" in r.all("ClusterRole"),
        False,
        HOST_MANAGED,
    ),
    Effect(
        "resources.computeDomains.imex.mode",
        "hostManaged",
        env("IMEX_MODE", "compute-domain"),
        "hostManaged",
        HOST_MANAGED,
    ),
    Effect("resources.computeDomains.imex.isolation", "", env("IMEX_ISOLATION", "compute-domains"), ""),
    Effect("resources.computeDomains.imex.hostSocketPath", "/s", env("IMEX_HOST_SOCKET_PATH", "compute-domains"), "/s"),
    Effect(
        "resources.computeDomains.imex.settings", "LOG_LEVEL=5", env("IMEX_SETTINGS", "compute-domains"), "LOG_LEVEL=5"
    ),
    *(
        Effect(
            "featureGates",
            {"MPSSupport": True, "DynamicMIG": False},
            env("FEATURE_GATES", name),
            "DynamicMIG=false,MPSSupport=true,",
        )
        for name in ("gpus", "compute-domains", "compute-domain")
    ),
    *(
        Effect("logVerbosity", level, env(variable, name), "6")
        for level in (6, "6")
        for variable, name in (
            ("LOG_VERBOSITY", "gpus"),
            ("LOG_VERBOSITY", "compute-domains"),
            ("LOG_VERBOSITY", "compute-domain"),
            ("LOG_VERBOSITY_CD_DAEMON", "compute-domain"),
        )
    ),
    Effect("maskNvidiaDriverParams", True, env("MASK_NVIDIA_DRIVER_PARAMS"), "true"),
    Effect("maskNvidiaDriverParams", "true", env("MASK_NVIDIA_DRIVER_PARAMS", "compute-domains"), "true"),
    Effect("priorityClass.create", True, object_of("PriorityClass", "value"), 1000000000),
    Effect("priorityClass.create", True, kubelet_plugin(*POD, "priorityClassName"), FULL),
    Effect("priorityClass.create", True, controller(*POD, "priorityClassName"), FULL),
    Effect("priorityClass.name", "mine", object_of("PriorityClass", "metadata", "name"), "mine", CLASS),
    Effect("priorityClass.name", "mine", kubelet_plugin(*POD, "priorityClassName"), "mine", CLASS),
    Effect("priorityClass.value", 7, object_of("PriorityClass", "value"), 7, CLASS),
    Effect("priorityClass.preemptionPolicy", "Never", object_of("PriorityClass", "preemptionPolicy"), "Never", CLASS),
    Effect("webhook.enabled", True, lambda r: f"{NAME}-webhook" in r.all("Deployment"), True),
    Effect("webhook.replicas", 3, webhook("spec", "replicas"), 3, WEBHOOK),
    Effect("webhook.servicePort", 8443, object_of("Service", "spec", "ports", "0", "port"), 8443, WEBHOOK),
    Effect(
        "webhook.servicePort", 8443, object_of(HOOKS, "webhooks", "0", "clientConfig", "service", "port"), 8443, WEBHOOK
    ),
    Effect("webhook.containerPort", 8443, port("webhook", "webhook"), 8443, WEBHOOK),
    Effect("webhook.containerPort", 8443, container("webhook", "args", "2"), "--port=8443", WEBHOOK),
    Effect(
        "webhook.strategy",
        {"type": "Recreate", "rollingUpdate": None},
        webhook("spec", "strategy"),
        {"type": "Recreate"},
        WEBHOOK,
    ),
    Effect("webhook.podDisruptionBudget.enabled", False, lambda r: len(r.all("PodDisruptionBudget")), 0, TWO),
    Effect("webhook.metrics.enabled", False, port("metrics", "webhook"), None, WEBHOOK),
    Effect("webhook.metrics.httpEndpoint", ":9090", env("HTTP_ENDPOINT", "webhook"), ":9090", WEBHOOK),
    Effect("webhook.metrics.httpEndpoint", ":9090", port("metrics", "webhook"), 9090, WEBHOOK),
    Effect("webhook.metrics.metricsPath", "/m", env("METRICS_PATH", "webhook"), "/m", WEBHOOK),
    *monitor("webhook.metrics", f"{NAME}-webhook", ["metrics"], "30s", WEBHOOK),
    Effect(
        "webhook.networkPolicy.enabled",
        True,
        object_of("NetworkPolicy", "spec", "ingress", "0", "ports", name=f"{NAME}-webhook"),
        [{"protocol": "TCP", "port": "webhook"}, {"protocol": "TCP", "port": "metrics"}],
        WEBHOOK,
    ),
    Effect("webhook.timeoutSeconds", 9, object_of(HOOKS, "webhooks", "0", "timeoutSeconds"), 9, WEBHOOK),
    Effect("webhook.tls.mode", "self-signed", lambda r: len(r.all("Secret")), 1, WEBHOOK),
    Effect(
        "webhook.tls.selfSigned.renewal",
        "now",
        object_of("Secret", "metadata", "annotations", f"{NAME}/renewal"),
        "now",
        SELF_SIGNED,
    ),
    Effect("webhook.tls.selfSigned.validityDays", 30, valid_days, 30, SELF_SIGNED),
    *component("webhook", webhook, WEBHOOK),
    Effect("webhook.affinity", AFFINITY, webhook(*POD, "affinity"), AFFINITY, WEBHOOK),
    *of_container("webhook.containers.webhook", "webhook", WEBHOOK),
    Effect("webhook.serviceAccount.create", False, webhook(*POD, "serviceAccountName"), "default", WEBHOOK),
    Effect(
        "webhook.serviceAccount.annotations",
        LABELS,
        object_of("ServiceAccount", "metadata", "annotations", name=f"{FULL}-webhook-service-account"),
        LABELS,
        WEBHOOK,
    ),
    Effect("webhook.serviceAccount.name", "mine", webhook(*POD, "serviceAccountName"), "mine", WEBHOOK),
    Effect("webhook.failurePolicy", "Ignore", object_of(HOOKS, "webhooks", "0", "failurePolicy"), "Ignore", WEBHOOK),
    Effect(
        "webhook.tls.mode",
        "secret",
        lambda r: len(r.all("Certificate")),
        0,
        {**WEBHOOK, "webhook.tls.secret.name": "mine"},
    ),
    Effect(
        "webhook.tls.certManager.issuerType",
        "clusterissuer",
        object_of("Certificate", "spec", "issuerRef", "kind"),
        "ClusterIssuer",
        {**WEBHOOK, "webhook.tls.certManager.issuerName": "mine"},
    ),
    Effect(
        "webhook.tls.certManager.issuerName",
        "other",
        object_of("Certificate", "spec", "issuerRef", "name"),
        "other",
        CLUSTER_ISSUER,
    ),
    Effect(
        "webhook.tls.certManager.dnsNames",
        ["a.test"],
        object_of("Certificate", "spec", "dnsNames"),
        [f"{NAME}-webhook.gpu.svc", "a.test"],
        WEBHOOK,
    ),
    Effect(
        "webhook.tls.secret.name", "other", webhook(*POD, "volumes", "0", "secret", "secretName"), "other", OWN_SECRET
    ),
    Effect(
        "webhook.tls.secret.caBundle",
        "Q0E=",
        object_of(HOOKS, "webhooks", "0", "clientConfig", "caBundle"),
        "Q0E=",
        OWN_SECRET,
    ),
    Effect("controller.replicas", 3, controller("spec", "replicas"), 3),
    Effect("controller.replicas", 2, env("LEADER_ELECTION_ENABLED", "compute-domain"), "true"),
    Effect("controller.leaderElection.enabled", True, env("LEADER_ELECTION_ENABLED", "compute-domain"), "true"),
    Effect(
        "controller.leaderElection.leaseDuration", "30s", env("LEADER_ELECTION_LEASE_DURATION", "compute-domain"), "30s"
    ),
    Effect(
        "controller.leaderElection.renewDeadline", "20s", env("LEADER_ELECTION_RENEW_DEADLINE", "compute-domain"), "20s"
    ),
    Effect("controller.leaderElection.retryPeriod", "4s", env("LEADER_ELECTION_RETRY_PERIOD", "compute-domain"), "4s"),
    Effect("controller.metrics.enabled", False, env("HTTP_ENDPOINT", "compute-domain"), None),
    Effect("controller.metrics.httpEndpoint", ":9090", env("HTTP_ENDPOINT", "compute-domain"), ":9090"),
    Effect("controller.metrics.httpEndpoint", "0.0.0.0:9090", port("metrics", "compute-domain"), 9090),
    Effect("controller.metrics.httpEndpoint", "", port("metrics", "compute-domain"), None),
    Effect("controller.metrics.metricsPath", "/m", env("METRICS_PATH", "compute-domain"), "/m"),
    Effect("controller.metrics.profilePath", "/debug/pprof", env("PPROF_PATH", "compute-domain"), "/debug/pprof"),
    *monitor("controller.metrics", f"{NAME}-controller", ["metrics"], "7s"),
    *component("controller", controller, {}),
    Effect("controller.containers.computeDomain.env", ENV, env("LOG_VERBOSITY", "compute-domain"), "6"),
    *of_container("controller.containers.computeDomain", "compute-domain"),
    Effect("controller.affinity", {"podAntiAffinity": None}, controller(*POD, "affinity", "podAntiAffinity"), None),
    Effect("controller.networkPolicy.enabled", True, egress("controller"), [[("TCP", 443), ("TCP", 6443)], DNS]),
    Effect(
        "controller.networkPolicy.egressPorts",
        [16443],
        egress("controller"),
        [[("TCP", 16443)], DNS],
        {"controller.networkPolicy.enabled": True},
    ),
    Effect("kubeletPlugin.metrics.enabled", False, env("HTTP_ENDPOINT"), None),
    Effect("kubeletPlugin.metrics.enabled", False, port("gpu-metrics", "gpus"), None),
    Effect("kubeletPlugin.metrics.gpuHttpEndpoint", ":9090", env("HTTP_ENDPOINT"), ":9090"),
    Effect("kubeletPlugin.metrics.gpuHttpEndpoint", ":9090", port("gpu-metrics", "gpus"), 9090),
    Effect(
        "kubeletPlugin.metrics.computeDomainHttpEndpoint", ":9091", env("HTTP_ENDPOINT", "compute-domains"), ":9091"
    ),
    Effect("kubeletPlugin.metrics.computeDomainHttpEndpoint", "[::]:9091", port("cd-metrics", "compute-domains"), 9091),
    Effect("kubeletPlugin.metrics.metricsPath", "/m", env("METRICS_PATH"), "/m"),
    Effect("kubeletPlugin.metrics.profilePath", "/debug/pprof", env("PPROF_PATH"), "/debug/pprof"),
    *monitor("kubeletPlugin.metrics", f"{NAME}-kubelet-plugin", ["gpu-metrics", "cd-metrics"], "7s"),
    *component("kubeletPlugin", kubelet_plugin, {}),
    Effect(
        "kubeletPlugin.updateStrategy",
        {"type": "OnDelete"},
        kubelet_plugin("spec", "updateStrategy"),
        {"type": "OnDelete"},
    ),
    Effect("kubeletPlugin.kubeletRegistrarDirectoryPath", "/r", env("KUBELET_REGISTRAR_DIRECTORY_PATH"), "/r", MOVED),
    Effect("kubeletPlugin.kubeletRegistrarDirectoryPath", "/r", host_path("plugins-registry"), "/r", MOVED),
    Effect(
        "kubeletPlugin.kubeletPluginsDirectoryPath",
        "/p",
        env("KUBELET_PLUGINS_DIRECTORY_PATH", "compute-domains"),
        "/p",
        MOVED,
    ),
    Effect("kubeletPlugin.kubeletPluginsDirectoryPath", "/p", host_path("plugins"), "/p", MOVED),
    Effect("kubeletPlugin.kubeletPodResourcesDirectoryPath", "/k/", host_path("pod-resources"), "/k", GUARD),
    Effect(
        "kubeletPlugin.kubeletPodResourcesDirectoryPath",
        "/k",
        env("POD_RESOURCES_SOCKET"),
        "/k/kubelet.sock",
        GUARD,
    ),
    *of_container("kubeletPlugin.containers.init", "init-container"),
    Effect("kubeletPlugin.containers.computeDomains.env", ENV, env("LOG_VERBOSITY", "compute-domains"), "6"),
    *of_container("kubeletPlugin.containers.computeDomains", "compute-domains"),
    Effect(
        "kubeletPlugin.containers.computeDomains.healthcheckPort",
        7,
        container("compute-domains", "livenessProbe", "grpc", "port"),
        7,
    ),
    Effect(
        "kubeletPlugin.containers.computeDomains.gpuCliqueLabelEnabled",
        True,
        env("GPU_CLIQUE_LABEL_ENABLED", "compute-domains"),
        "true",
    ),
    Effect("kubeletPlugin.containers.gpus.env", ENV, env("LOG_VERBOSITY"), "6"),
    *of_container("kubeletPlugin.containers.gpus", "gpus"),
    Effect("kubeletPlugin.containers.gpus.healthcheckPort", 7, container("gpus", "startupProbe", "grpc", "port"), 7),
    Effect("kubeletPlugin.affinity", {"nodeAffinity": None}, kubelet_plugin(*POD, "affinity"), None),
    Effect("kubeletPlugin.networkPolicy.enabled", True, egress("kubelet-plugin"), [[("TCP", 443), ("TCP", 6443)], DNS]),
    Effect(
        "kubeletPlugin.networkPolicy.egressPorts",
        [16443],
        egress("kubelet-plugin"),
        [[("TCP", 16443)], DNS],
        {"kubeletPlugin.networkPolicy.enabled": True},
    ),
]
