"""Every key of the Go driver's chart and its default."""

from __future__ import annotations

from typing import Any

UPSTREAM: dict[str, Any] = {
    "nvidiaDriverRoot": "/",
    "nvidiaCDIHookPath": "",
    "altProcDevices": "",
    "nameOverride": "",
    "fullnameOverride": "",
    "namespaceOverride": "",
    "selectorLabelsOverride": {},
    "gpuResourcesEnabledOverride": False,
    "consumableShares": "",
    "allowDefaultNamespace": False,
    "resourceApiVersion": "",
    "imagePullSecrets": [],
    "image.repository": "dra-driver-nvidia/dra-driver-nvidia-gpu",
    "image.pullPolicy": "IfNotPresent",
    "image.tag": "",
    "serviceAccount.create": True,
    "serviceAccount.annotations": {},
    "serviceAccount.name": "",
    "resources.gpus.enabled": True,
    "resources.computeDomains.enabled": True,
    "resources.computeDomains.imex.mode": "driverManaged",
    "resources.computeDomains.imex.isolation": "domain",
    "resources.computeDomains.imex.hostSocketPath": "/etc/nvidia-imex/imex_ctrl.sock",
    "featureGates": {},
    "logVerbosity": "4",
    "webhook.enabled": False,
    "webhook.replicas": 1,
    "webhook.servicePort": 443,
    "webhook.containerPort": 443,
    "webhook.priorityClassName": "system-cluster-critical",
    "webhook.strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
    "webhook.podAnnotations": {},
    "webhook.podSecurityContext": {},
    "webhook.nodeSelector": {},
    "webhook.tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
    "webhook.affinity": {},
    "webhook.containers.webhook.securityContext": {"privileged": False},
    "webhook.containers.webhook.resources": {},
    "webhook.serviceAccount.create": True,
    "webhook.serviceAccount.name": "",
    "webhook.failurePolicy": "Fail",
    "webhook.tls.mode": "cert-manager",
    "webhook.tls.certManager.issuerType": "selfsigned",
    "webhook.tls.certManager.issuerName": "",
    "webhook.tls.certManager.dnsNames": [],
    "webhook.tls.secret.name": "",
    "webhook.tls.secret.caBundle": "",
    "controller.replicas": 1,
    "controller.leaderElection.enabled": False,
    "controller.leaderElection.leaseDuration": "15s",
    "controller.leaderElection.renewDeadline": "10s",
    "controller.leaderElection.retryPeriod": "2s",
    "controller.metrics.enabled": True,
    "controller.metrics.httpEndpoint": ":8080",
    "controller.metrics.metricsPath": "/metrics",
    "controller.metrics.profilePath": "",
    "controller.priorityClassName": "system-node-critical",
    "controller.podAnnotations": {},
    "controller.podSecurityContext": {},
    "controller.nodeSelector": {},
    "controller.tolerations": [
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "node-role.kubernetes.io/master", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "CriticalAddonsOnly", "operator": "Exists"},
    ],
    "controller.containers.computeDomain.securityContext": {},
    "controller.containers.computeDomain.env": [],
    "controller.containers.computeDomain.resources": {},
    "controller.affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "preference": {
                        "matchExpressions": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]
                    },
                }
            ]
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "podAffinityTerm": {
                        "labelSelector": {"matchLabels": {"dra-driver-nvidia-gpu-component": "controller"}},
                        "topologyKey": "kubernetes.io/hostname",
                    },
                }
            ]
        },
    },
    "controller.networkPolicy.enabled": False,
    "kubeletPlugin.metrics.enabled": True,
    "kubeletPlugin.metrics.gpuHttpEndpoint": ":8080",
    "kubeletPlugin.metrics.computeDomainHttpEndpoint": ":8081",
    "kubeletPlugin.metrics.metricsPath": "/metrics",
    "kubeletPlugin.priorityClassName": "system-node-critical",
    "kubeletPlugin.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
    "kubeletPlugin.podAnnotations": {},
    "kubeletPlugin.podSecurityContext": {},
    "kubeletPlugin.nodeSelector": {},
    "kubeletPlugin.tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "kubeletPlugin.kubeletRegistrarDirectoryPath": "/var/lib/kubelet/plugins_registry",
    "kubeletPlugin.kubeletPluginsDirectoryPath": "/var/lib/kubelet/plugins",
    "kubeletPlugin.containers.init.securityContext": {},
    "kubeletPlugin.containers.init.resources": {},
    "kubeletPlugin.containers.computeDomains.env": [],
    "kubeletPlugin.containers.computeDomains.securityContext": {"privileged": True},
    "kubeletPlugin.containers.computeDomains.resources": {},
    "kubeletPlugin.containers.computeDomains.healthcheckPort": 51515,
    "kubeletPlugin.containers.computeDomains.gpuCliqueLabelEnabled": False,
    "kubeletPlugin.containers.gpus.env": [],
    "kubeletPlugin.containers.gpus.securityContext": {"privileged": True},
    "kubeletPlugin.containers.gpus.resources": {},
    "kubeletPlugin.containers.gpus.healthcheckPort": 51516,
    "kubeletPlugin.affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
                    for key, value in (
                        ("feature.node.kubernetes.io/pci-10de.present", "true"),
                        ("feature.node.kubernetes.io/pci-0302_10de.present", "true"),
                        ("feature.node.kubernetes.io/pci-0300_10de.present", "true"),
                        ("feature.node.kubernetes.io/cpu-model.vendor_id", "NVIDIA"),
                        ("nvidia.com/gpu.present", "true"),
                    )
                ]
            }
        }
    },
    "kubeletPlugin.networkPolicy.enabled": False,
}
