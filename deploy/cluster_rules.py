"""Our own rules for what is deployed beside gateways: the node agent, the scaler, and what is written for KEDA. Used by
deploy/check; the faults at the end must each be found."""

# What attaches programs to control groups and interfaces, looks at processes, and sends for the first request's hold.
CAPABILITIES = {"BPF", "PERFMON", "NET_ADMIN", "SYS_PTRACE", "NET_RAW"}
READS = {("", "services"), ("", "pods"), ("", "nodes"), ("discovery.k8s.io", "endpointslices")}
SCALER = "gatewatch-scaler.skuber-system.svc:9104"
QUERY = 'sum(rate(internal_tcp_attempts_total{destination_service="my-svc"}[1m]))'


def role_of(spec):
    """`node` or `scaler`; None for a pod that is neither."""
    for container in spec.get("containers", []):
        if container.get("args", [None])[0] in ("node", "scaler"):
            return container["args"][0]
    return None


def faults(things):
    for thing in things:
        name = f"{thing['kind']} {thing['metadata']['name']}"
        if thing["kind"] in ("DaemonSet", "Deployment"):
            template = thing["spec"]["template"]
            spec, labels = template["spec"], template["metadata"].get("labels", {})
            if role_of(spec):
                yield from pod_faults(name, spec, things)
            if role_of(spec) == "node":
                yield from node_faults(name, template, things)
            if role_of(spec) == "scaler":
                yield from scaler_faults(name, spec, labels, things)
        elif thing["kind"] in ("ClusterRole", "Role"):
            yield from role_faults(name, thing, things)
        elif thing["kind"] == "ScaledObject":
            yield from scaled_faults(name, thing["spec"])


def pod_faults(name, spec, things):
    accounts = {thing["metadata"]["name"] for thing in things if thing["kind"] == "ServiceAccount"}
    if spec.get("serviceAccountName") not in accounts:
        yield f"{name}: its service account is not there"
    for container in spec["containers"]:
        security = container.get("securityContext", {})
        for key, value in {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}.items():
            if security.get(key) != value:
                yield f"{name}: {key} is {security.get(key)}, not {value}"
        if security.get("privileged"):
            yield f"{name}: privileged"
        if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: no seccomp profile"
        if security.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: capabilities are not dropped"
        if set(container.get("resources", {}).get("limits", {})) != {"cpu", "memory"}:
            yield f"{name}: no limits"
        for probe, path in {"readinessProbe": "/readyz", "livenessProbe": "/healthz"}.items():
            if container.get(probe, {}).get("httpGet", {}).get("path") != path:
                yield f"{name}: {probe} does not ask {path}"


def node_faults(name, template, things):
    spec, labels = template["spec"], template["metadata"].get("labels", {})
    (container,) = spec["containers"]
    for key in ("hostPID", "hostNetwork"):
        if spec.get(key) is not True:
            yield f"{name}: it sees nothing of the node without {key}"
    if not set(container["securityContext"]["capabilities"].get("add", [])) <= CAPABILITIES:
        yield f"{name}: it needs none but {sorted(CAPABILITIES)}"
    if {"operator": "Exists"} not in spec.get("tolerations", []):
        yield f"{name}: calls from tainted nodes are not seen"
    mounts = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
    for volume in spec.get("volumes", []):
        path = volume.get("hostPath", {}).get("path")
        if path and (path != "/sys/fs/cgroup" or not mounts[volume["name"]].get("readOnly")):
            yield f"{name}: hostPath {path} is not needed, or not to be written to"
    env = {one["name"]: one for one in container["env"]}
    if env.get("NODE_NAME", {}).get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") != "spec.nodeName":
        yield f"{name}: it does not know its node's name"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if env["METRICS_ADDR"]["value"].rpartition(":")[2] != str(ports["metrics"]):
        yield f"{name}: /metrics is served elsewhere"
    if template["metadata"].get("annotations", {}).get("prometheus.io/port") != str(ports["metrics"]):
        yield f"{name}: Prometheus is told another port"
    if not any(
        service["spec"].get("clusterIP") == "None"
        and service["spec"].get("publishNotReadyAddresses")
        and [port["targetPort"] for port in service["spec"]["ports"]] == ["demand"]
        for service in chosen_by("Service", labels, things)
    ):
        yield f"{name}: scalers do not find it by a headless Service"


def scaler_faults(name, spec, labels, things):
    (container,) = spec["containers"]
    security = container["securityContext"]
    if security.get("runAsNonRoot") is not True or security["capabilities"].get("add"):
        yield f"{name}: the scaler needs neither root nor a capability"
    if spec.get("automountServiceAccountToken") is not False:
        yield f"{name}: the scaler needs no token"
    if not list(chosen_by("PodDisruptionBudget", labels, things)):
        yield f"{name}: no disruption budget keeps one of it"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = list(chosen_by("Service", labels, things))
    if [port["port"] for service in services for port in service["spec"]["ports"]] != [ports["keda"]]:
        yield f"{name}: KEDA does not reach it by a Service"
    env = {one["name"]: one.get("value") for one in container["env"]}
    headless = {
        f"{one['metadata']['name']}:{one['spec']['ports'][0]['port']}"
        for one in things
        if one["kind"] == "Service" and one["spec"].get("clusterIP") == "None"
    }
    if env.get("SCALER_NODES") not in headless:
        yield f"{name}: it looks for agents at {env.get('SCALER_NODES')}, which is none of {sorted(headless)}"


def chosen_by(kind, labels, things):
    for thing in things:
        if thing["kind"] == kind:
            selector = thing["spec"]["selector"]
            if selector.get("matchLabels", selector).items() <= labels.items():
                yield thing


def role_faults(name, role, things):
    reads = set()
    for rule in role["rules"]:
        if set(rule["verbs"]) != {"list", "watch"}:
            yield f"{name}: it lists and watches, and does nothing else: {rule['verbs']}"
        reads |= {(group, resource) for group in rule["apiGroups"] for resource in rule["resources"]}
    # Nodes belong to no namespace.
    wanted = READS if role["kind"] == "ClusterRole" else READS - {("", "nodes")}
    if reads != wanted:
        yield f"{name}: it reads {sorted(reads)}, not {sorted(wanted)}"
    accounts = {
        (one["metadata"]["name"], one["metadata"].get("namespace")) for one in things if one["kind"] == "ServiceAccount"
    }
    bound = [
        one
        for one in things
        if one["kind"] == f"{role['kind']}Binding"
        and (one["roleRef"]["kind"], one["roleRef"]["name"]) == (role["kind"], role["metadata"]["name"])
        and one["metadata"].get("namespace") == role["metadata"].get("namespace")
    ]
    if not bound:
        yield f"{name}: nobody has it"
    for one in bound:
        for subject in one["subjects"]:
            if (subject["name"], subject.get("namespace")) not in accounts:
                yield f"{name}: given to {subject}, who is not there"


def scaled_faults(name, spec):
    if (spec.get("minReplicaCount"), spec.get("maxReplicaCount")) != (0, 10):
        yield f"{name}: not from 0 to 10"
    for trigger in spec["triggers"]:
        metadata = trigger["metadata"]
        if metadata.get("threshold") != "1":
            yield f"{name}: threshold {metadata.get('threshold')}"
        if trigger["type"] == "prometheus" and metadata.get("query") != QUERY:
            yield f"{name}: another query than the documented one"
        if trigger["type"] == "external-push" and metadata.get("scalerAddress") != SCALER:
            yield f"{name}: nobody answers at {metadata.get('scalerAddress')}"


def place(kind, path, value):
    """Sets a place in the first object of a kind; None removes it."""

    def change(things):
        *way, last = path
        here = next(thing for thing in things if thing["kind"] == kind)
        for step in way:
            here = here[step]
        if value is None:
            del here[last]
        else:
            here[last] = value

    return change


POD = ("spec", "template", "spec")
BOX = (*POD, "containers", 0)
RIGHTS = (*BOX, "securityContext", "capabilities")
FAULTS = {
    "nothing of the node without hostPID": place("DaemonSet", (*POD, "hostPID"), None),
    "nothing of the node without hostNetwork": place("DaemonSet", (*POD, "hostNetwork"), False),
    "needs none but": place("DaemonSet", (*RIGHTS, "add"), ["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN"]),
    "capabilities are not dropped": place("DaemonSet", (*RIGHTS, "drop"), []),
    "tainted nodes": place("DaemonSet", (*POD, "tolerations"), []),
    "hostPath /proc is not needed": place("DaemonSet", (*POD, "volumes", 0, "hostPath", "path"), "/proc"),
    "not to be written to": place("DaemonSet", (*BOX, "volumeMounts", 0, "readOnly"), None),
    "does not know its node": place("DaemonSet", (*BOX, "env", 0), {"name": "NODE_NAME", "value": "x"}),
    "/metrics is served elsewhere": place("DaemonSet", (*BOX, "ports", 0, "containerPort"), 9112),
    "Prometheus is told another": place(
        "DaemonSet", ("spec", "template", "metadata", "annotations", "prometheus.io/port"), "9103"
    ),
    "readinessProbe does not ask": place("DaemonSet", (*BOX, "readinessProbe"), None),
    "service account is not there": place("DaemonSet", (*POD, "serviceAccountName"), "default"),
    "headless Service": place("Service", ("spec", "clusterIP"), None),
    "does nothing else": place("ClusterRole", ("rules", 0, "verbs"), ["get", "list", "watch"]),
    "it reads [": place("ClusterRole", ("rules", 0, "resources"), ["services", "pods", "nodes", "secrets"]),
    "nobody has it": place("ClusterRoleBinding", ("roleRef", "name"), "other"),
    "who is not there": place("ClusterRoleBinding", ("subjects", 0, "namespace"), "default"),
    "neither root nor": place("Deployment", (*RIGHTS, "add"), ["BPF"]),
    "needs no token": place("Deployment", (*POD, "automountServiceAccountToken"), None),
    "disruption budget": place("PodDisruptionBudget", ("spec", "selector", "matchLabels"), {"app": "other"}),
    "it looks for agents at": place("Deployment", (*BOX, "env", 0, "value"), "gatewatch-node:9102"),
    "'tmplate' was unexpected": place("DaemonSet", ("spec", "tmplate"), {}),
}
EXAMPLE_FAULTS = {
    "'maxReplicas' was unexpected": place("ScaledObject", ("spec", "maxReplicas"), 10),
    "not from 0 to 10": place("ScaledObject", ("spec", "minReplicaCount"), 1),
    "threshold 5": place("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), "5"),
    "another query": place("ScaledObject", ("spec", "triggers", 0, "metadata", "query"), "up"),
    "1 is not of type 'string'": place("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 1),
}
