#!/usr/bin/env python3
"""Renders the chart and checks what comes out.

    pip install helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 pyyaml
    python broker/deploy/helm/check.py

Helm's own engine renders (no cluster and no network are needed), and every object of
Kubernetes' own kinds is held to the schema of its version. What must stay closed is said
below, one by one.
"""

import pathlib
import sys

import helm_python
import kubernetes_validate
import yaml

CHART = pathlib.Path(__file__).parent / "bulla-broker"
VERSIONS = ["1.28", "1.31", "1.34"]
LEAST = {
    "secret": "bulla-keys",
    "trust": "bulla-trust",
    "config": {"nats_url": "tls://nats:4222", "trust_domain": "acme.example"},
}
ALL = {
    **LEAST,
    "image": {"repository": "registry.example/bulla", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "pull"}],
    "groups": {"a": {"replicas": 2}, "b": {"replicas": 3}},
    "config": {
        **LEAST["config"],
        "streams": {"replicas": 3},
        "exchange": {"workload": "spiffe://acme.example/broker", "seed_file": "broker.nk"},
    },
    "networkPolicy": {
        "scrapeFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "natsTo": [{"podSelector": {"matchLabels": {"app": "nats"}}}],
    },
    "traces": {
        "endpoint": "http://collector.tracing:4318",
        "share": 0.01,
        "to": [{"namespaceSelector": {"matchLabels": {"name": "tracing"}}}],
    },
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "bus"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "bus", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-cluster-critical",
}


def render(values):
    with helm_python.Chart.load(str(CHART)) as chart:
        rendered = chart.render(values=values, name="bus", namespace="bulla")
    texts = rendered.values() if isinstance(rendered, dict) else [rendered]
    documents = [d for text in texts if text for d in load(text)]
    return [d for d in documents if isinstance(d, dict) and "kind" in d]


def load(text):
    try:
        return list(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return []  # NOTES.txt


def refused(values):
    try:
        render(values)
    except helm_python.HelmError:
        return
    sys.exit(f"rendered, and must not be: {values}")


def check(objects):
    for version in VERSIONS:
        for each in objects:
            if each["apiVersion"].startswith("monitoring.coreos.com"):
                continue  # not Kubernetes' own
            kubernetes_validate.validate(each, version, strict=True)
    kinds = [each["kind"] for each in objects]
    assert kinds.count("Deployment") == 2 and kinds.count("PodDisruptionBudget") == 2, kinds
    assert "Secret" not in kinds and "ClusterRole" not in kinds and "Role" not in kinds, kinds
    for each in objects:
        if each["kind"] == "Service":
            assert each["spec"]["clusterIP"] == "None", "for scraping alone"
        if each["kind"] != "Deployment":
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert not pod.get("hostNetwork") and not pod.get("hostPID")
        for container in pod["containers"] + pod["initContainers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "limits" in container["resources"]


def main():
    least, everything = render(LEAST), render(ALL)
    check(least)
    check(everything)
    policies = [each for each in least if each["kind"] == "NetworkPolicy"]
    assert len(policies) == 1 and policies[0]["spec"]["ingress"] == [], "nobody comes in"
    assert "OTEL" not in str(least) and "4318" not in str(least), "nothing goes out unasked"
    assert "http://collector.tracing:4318" in str(everything)
    assert not any(each["kind"] == "Service" for each in least)
    assert any(each["kind"] == "PrometheusRule" for each in everything)
    refused({})
    refused({**LEAST, "secret": ""})
    refused({**LEAST, "groups": {"a": {"replicas": 1}, "b": {"replicas": 0}}})
    refused({**LEAST, "unknown": 1})
    refused({**LEAST, "traces": {"endpoint": "collector:4318"}})
    refused({**LEAST, "config": {**LEAST["config"], "streams": {"replicas": 2}}})
    import tomllib

    for objects in (least, everything):
        config = next(e for e in objects if e["kind"] == "ConfigMap" and "broker.toml" in e["data"])
        tomllib.loads(config["data"]["broker.toml"])
    helm_python.lint(str(CHART), values=LEAST)
    print(f"good: {len(least)} and {len(everything)} objects, Kubernetes {', '.join(VERSIONS)}")


main()
