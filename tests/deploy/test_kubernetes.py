"""deploy/k8s: rendered as a cluster would get it, checked against Kubernetes' schemas and point by point."""

from __future__ import annotations

import copy
import ipaddress
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.uri_parser import parse_uri

from mailsender import __version__
from mailsender.settings.environment import Settings, load
from mailsender.settings.relays import plan_of
from mailsender.settings.sources import SettingsError
from mailsender.web import app as web_app
from mailsender.web.middleware import PROBES
from tests.deploy import kube
from tests.deploy.kube import K8S, Object, Tools, output

OVERLAYS = ("base", "overlays/example")
VERSIONS = ("1.29", "1.33", "1.37")
"""The oldest that the manifests are meant for, one between, and the newest that the validator carries."""

pytestmark = [
    pytest.mark.deploy,
    # The first test installs the tools where nothing is cached.
    pytest.mark.timeout(900),
]

tools = kube.tools


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects of the base or of an overlay."""

    name: str
    text: str
    objects: list[Object]
    secret: Object
    """The example of the Secret: never rendered, but what the Deployment expects."""

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str = "") -> Object:
        found = [one for one in self.all(kind) if name in ("", one["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]

    @property
    def deployment(self) -> Object:
        spec = self.one("Deployment")["spec"]
        assert isinstance(spec, dict)
        return spec

    @property
    def pod(self) -> Object:
        spec = self.deployment["template"]["spec"]
        assert isinstance(spec, dict)
        return spec

    @property
    def container(self) -> Object:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def config(self) -> dict[str, str]:
        """The ConfigMap that the container reads."""
        (source,) = self.container["envFrom"]
        data = self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        assert isinstance(data, dict)
        return data

    @property
    def from_secret(self) -> dict[str, bool]:
        """Variables that come from the Secret, and whether they must be there."""
        found = {}
        for variable in self.container["env"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            assert reference["name"] == self.secret["metadata"]["name"]
            assert reference["key"] == variable["name"]
            found[variable["name"]] = not reference.get("optional", False)
        return found

    def environment(self) -> dict[str, str]:
        """What the container's process finds, with the example's Secret."""
        return self.config | {name: self.secret["stringData"][name] for name in self.from_secret}


@pytest.fixture(scope="session", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest, tools: Tools) -> Rendered:
    text = tools.render(K8S / request.param)
    (secret,) = tools.read((K8S / "examples" / "secret.yaml").read_text())
    return Rendered(request.param, text, tools.read(text), secret)


@pytest.fixture
def settings(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings as the service reads them in the pod."""
    for name, value in rendered.environment().items():
        monkeypatch.setenv(name, value)
    return load()


# --- rendering and schemas -----------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schemas(
    rendered: Rendered, tools: Tools, tmp_path: Path, version: str
) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered.text)

    done = tools.validate(version, file)

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for one in rendered.objects:
        # Each by name: a validator that skips what it does not know must not pass for one that agrees.
        assert f"passed for resource {one['kind'].lower()}/{one['metadata']['name']}" in said


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_of_the_secret_fits_the_schema(tools: Tools, version: str) -> None:
    done = tools.validate(version, K8S / "examples" / "secret.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schemas_refuse_a_misspelt_field(rendered: Rendered, tools: Tools, tmp_path: Path) -> None:
    assert "maxUnavailable:" in rendered.text
    file = tmp_path / "misspelt.yaml"
    file.write_text(rendered.text.replace("maxUnavailable:", "maxUnavailble:"))

    assert tools.validate(VERSIONS[-1], file).returncode != 0


def test_kubectl_renders_the_same(rendered: Rendered, tools: Tools) -> None:
    if shutil.which("kubectl") is None:
        # Never a failure: kubectl's kustomize is the one that every other test here uses.
        pytest.skip("there is no kubectl")

    text = output(["kubectl", "kustomize", K8S / rendered.name])

    assert tools.read(text) == rendered.objects


def test_a_changed_setting_makes_a_rolling_update(rendered: Rendered, tools: Tools, tmp_path: Path) -> None:
    base = os.path.relpath(K8S / rendered.name, tmp_path.resolve())
    merge: Object = {"name": "mailsender", "behavior": "merge", "literals": ["LOG_LEVEL=debug"]}
    metadata = rendered.one("ConfigMap")["metadata"]
    if "namespace" in metadata:
        merge["namespace"] = metadata["namespace"]  # a merge meets only a ConfigMap of its own namespace
    tools.overlay(tmp_path, {"resources": [base], "configMapGenerator": [merge]})

    changed = Rendered(rendered.name, "", tools.read(tools.render(tmp_path)), rendered.secret)

    assert changed.config == {**rendered.config, "LOG_LEVEL": "debug"}
    assert changed.pod != rendered.pod


def test_with_the_component_the_file_of_relays_takes_the_place_of_smtp_host(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, component = (
        os.path.relpath(K8S / each, tmp_path.resolve()) for each in ("base", "components/relays")
    )
    tools.overlay(tmp_path, {"resources": [base], "components": [component]})
    text = tools.render(tmp_path)
    (secret,) = tools.read((K8S / "examples" / "secret.yaml").read_text())
    made = Rendered("relays", text, tools.read(text), secret)

    assert "SMTP_HOST" not in made.config
    file = Path(made.config["MAILSENDER_CONFIG"])
    directory = made.config["MAILSENDER_SECRETS_DIR"]
    mounts = {each["mountPath"]: each["name"] for each in made.container["volumeMounts"]}
    volumes = {each["name"]: each for each in made.pod["volumes"]}
    # By this name and no other: pods see a change, and are not started anew by it.
    config = made.one("ConfigMap", volumes[mounts[str(file.parent)]]["configMap"]["name"])
    assert config["metadata"]["name"] == "mailsender-relays"
    assert volumes[mounts[directory]]["secret"]["secretName"] == "mailsender-relays"

    # As the pod finds it.
    (tmp_path / file.name).write_text(config["data"][file.name])
    for name in ("ses-password", "sendgrid-key", "postfix-password"):
        (tmp_path / name).write_text("s3cret")
    places = {"MAILSENDER_CONFIG": str(tmp_path / file.name), "MAILSENDER_SECRETS_DIR": str(tmp_path)}
    for name, value in {**made.environment(), **places}.items():
        monkeypatch.setenv(name, value)
    assert [each.name for each in plan_of(load()).relays] == ["ses", "sendgrid", "postfix"]

    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(text)
    for version in VERSIONS:
        done = tools.validate(version, rendered)
        assert done.returncode == 0, done.stdout + done.stderr


# --- settings and secrets ------------------------------------------------------------------------


def _secret_settings() -> set[str]:
    """Names of settings that may hold a password, as settings.py marks them."""
    fields = Settings.model_fields.items()
    return {name.upper() for name, field in fields if field.annotation is SecretStr or not field.repr}


def test_every_variable_is_a_setting(rendered: Rendered) -> None:
    known = {name.upper() for name in Settings.model_fields}

    assert set(rendered.config) | set(rendered.from_secret) <= known
    assert not set(rendered.config) & set(rendered.from_secret), "one hides the other"


def test_the_service_accepts_its_settings(settings: Settings) -> None:
    assert settings.bind_host == "0.0.0.0"
    assert settings.http_api_key.get_secret_value()


@pytest.mark.parametrize("name", ["HTTP_API_KEY", "MONGODB_URI"])
def test_what_the_service_cannot_start_without_is_demanded(
    rendered: Rendered, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert rendered.from_secret[name], "Kubernetes would start a container without it"
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=name):
        load()


def test_what_is_demanded_is_needed(
    rendered: Rendered, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, demanded in rendered.from_secret.items():
        if not demanded:
            monkeypatch.delenv(name)
    load()


def test_no_secret_stands_in_the_open(rendered: Rendered) -> None:
    secret = _secret_settings()
    assert {"HTTP_API_KEY", "SMTP_PASSWORD", "MONGODB_URI"} <= secret
    assert not secret & set(rendered.config)
    assert not rendered.all("Secret"), "the example would overwrite the real one"
    assert "change-me" not in rendered.text


def test_the_examples_of_secrets_have_what_the_pod_reads(rendered: Rendered, tools: Tools) -> None:
    (external,) = tools.read((K8S / "examples" / "external-secret.yaml").read_text())

    assert set(rendered.secret["stringData"]) == set(rendered.from_secret)
    assert {entry["secretKey"] for entry in external["spec"]["data"]} == set(rendered.from_secret)
    assert external["spec"]["target"]["name"] == rendered.secret["metadata"]["name"]


def test_nothing_but_the_manifests_becomes_a_variable(rendered: Rendered) -> None:
    # A Service called `smtp` would become SMTP_PORT=tcp://…, which the service refuses to start with.
    assert rendered.pod["enableServiceLinks"] is False


def test_static_membership_is_off(rendered: Rendered) -> None:
    # Names of a Deployment's pods change, and one name for two pods makes them push each other out.
    assert "KAFKA_GROUP_INSTANCE_ID" not in rendered.config
    assert "KAFKA_GROUP_INSTANCE_ID" not in {variable["name"] for variable in rendered.container["env"]}


# --- the pod -------------------------------------------------------------------------------------


def test_the_image_is_the_version_of_this_code(rendered: Rendered) -> None:
    name, _, tag = rendered.container["image"].rpartition(":")
    assert name.endswith("mailsender")
    assert tag == __version__


def test_the_grace_period_is_longer_than_the_drain(rendered: Rendered, settings: Settings) -> None:
    _, pause = rendered.container["lifecycle"]["preStop"]["exec"]["command"]
    # The way of `Replica.run` after SIGTERM: drain, close producer, consumer and MongoDB, close HTTP.
    slowest = settings.drain_timeout + 3 * settings.kafka_timeout + web_app.CLOSE_TIMEOUT

    assert rendered.pod["terminationGracePeriodSeconds"] > settings.drain_timeout
    assert rendered.pod["terminationGracePeriodSeconds"] > float(pause) + slowest


def test_probes_ask_what_answers_without_a_key(rendered: Rendered, settings: Settings) -> None:
    (port,) = rendered.container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", settings.http_port)
    paths = {}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = rendered.container[kind]["httpGet"]
        assert request["port"] == "http"
        assert "httpHeaders" not in request, "a key in a probe would stand in the open"
        paths[kind] = request["path"]
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert set(paths.values()) == PROBES


def test_a_slow_moment_restarts_nothing(rendered: Rendered) -> None:
    startup, liveness = rendered.container["startupProbe"], rendered.container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60
    assert liveness["timeoutSeconds"] >= 5


def test_resources_are_bounded(rendered: Rendered, settings: Settings) -> None:
    resources = rendered.container["resources"]
    for share in ("requests", "limits"):
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources[share])
    held = settings.intake_max_bytes + settings.smtp_max_senders * settings.letter_max_bytes
    assert _mebibytes(resources["limits"]["memory"]) * 2**20 > 3 * held
    assert _mebibytes(resources["requests"]["memory"]) <= _mebibytes(resources["limits"]["memory"])
    volumes = [volume["emptyDir"]["sizeLimit"] for volume in rendered.pod["volumes"] if "emptyDir" in volume]
    assert sum(map(_mebibytes, volumes)) <= _mebibytes(resources["limits"]["ephemeral-storage"])


def _mebibytes(text: str) -> int:
    assert text.endswith("Mi")
    return int(text.removesuffix("Mi"))


def test_what_may_be_written_is_a_volume(rendered: Rendered) -> None:
    mounts = {mount["mountPath"]: mount for mount in rendered.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in rendered.pod["volumes"]}
    for path in ("/tmp", "/var/lib/mailsender"):
        assert "sizeLimit" in volumes[mounts[path]["name"]]["emptyDir"]
        assert not mounts[path].get("readOnly")
    assert rendered.container["securityContext"]["readOnlyRootFilesystem"] is True


def test_files_that_settings_name_are_mounted(rendered: Rendered) -> None:
    read_only = [mount["mountPath"] for mount in rendered.container["volumeMounts"] if mount.get("readOnly")]
    for name, value in rendered.config.items():
        if name.endswith("_FILE"):
            assert any(Path(value).is_relative_to(path) for path in read_only), name


# --- the restricted Pod Security Standard --------------------------------------------------------


def restricted_faults(pod: Mapping[str, Any]) -> set[str]:
    """What the restricted standard (https://kubernetes.io/docs/concepts/security/) refuses in a pod."""
    context = pod.get("securityContext", {})
    faults = {name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)}
    if context.get("sysctls"):
        faults.add("sysctls")
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"}
    allowed |= {"persistentVolumeClaim", "projected", "secret"}
    if any(set(volume) - {"name"} - allowed for volume in pod.get("volumes", [])):
        faults.add("volumes")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        faults |= _container_faults(container, context)
    return faults


def _container_faults(container: Mapping[str, Any], pod_context: Mapping[str, Any]) -> set[str]:
    own = container.get("securityContext", {})
    both = {**pod_context, **own}
    capabilities = own.get("capabilities", {})
    wrong = {
        "privileged": own.get("privileged", False),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "drop": capabilities.get("drop") != ["ALL"],
        "add": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
        "runAsNonRoot": both.get("runAsNonRoot") is not True,
        "runAsUser": both.get("runAsUser") == 0,
        "seccompProfile": both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"},
        "appArmorProfile": both.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined",
        "seLinuxOptions": {"user", "role"} & set(both.get("seLinuxOptions", {})),
        "procMount": own.get("procMount", "Default") != "Default",
        "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
    }
    return {name for name, fault in wrong.items() if fault}


def test_the_pod_is_restricted(rendered: Rendered) -> None:
    assert restricted_faults(rendered.pod) == set()
    # Beyond the standard: a number, so that the kubelet can check it, and it is the image's user.
    assert rendered.pod["securityContext"]["runAsUser"] == 10001
    assert rendered.pod["securityContext"]["runAsGroup"] == 10001
    assert rendered.pod["securityContext"]["fsGroup"] == 10001
    assert "runAsUser" not in rendered.container["securityContext"]


LOOSENED: dict[str, Callable[[Object, Object], object]] = {
    "hostNetwork": lambda pod, _: pod.update(hostNetwork=True),
    "volumes": lambda pod, _: pod["volumes"].append({"name": "etc", "hostPath": {"path": "/etc"}}),
    "runAsNonRoot": lambda pod, _: pod["securityContext"].pop("runAsNonRoot"),
    "runAsUser": lambda _, container: container["securityContext"].update(runAsUser=0),
    "seccompProfile": lambda pod, _: pod["securityContext"].pop("seccompProfile"),
    "allowPrivilegeEscalation": lambda _, c: c["securityContext"].pop("allowPrivilegeEscalation"),
    "drop": lambda _, container: container["securityContext"].pop("capabilities"),
    "add": lambda _, container: container["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    "privileged": lambda _, container: container["securityContext"].update(privileged=True),
    "hostPort": lambda _, container: container["ports"][0].update(hostPort=8000),
}


@pytest.mark.parametrize("fault", LOOSENED)
def test_a_loosened_pod_is_noticed(rendered: Rendered, fault: str) -> None:
    pod = copy.deepcopy(rendered.pod)

    LOOSENED[fault](pod, pod["containers"][0])

    assert restricted_faults(pod) == {fault}


def test_the_namespace_enforces_it(rendered: Rendered) -> None:
    namespaces = rendered.all("Namespace")
    if rendered.name == "base":
        assert not namespaces, "the base goes into whatever namespace an overlay says"
        return
    (namespace,) = namespaces
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [one for one in rendered.objects if one is not namespace]
    assert {one["metadata"].get("namespace") for one in others} == {namespace["metadata"]["name"]}


def test_the_pod_gets_no_token(rendered: Rendered) -> None:
    account = rendered.one("ServiceAccount")
    assert rendered.pod["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert rendered.pod["automountServiceAccountToken"] is False


# --- several replicas ----------------------------------------------------------------------------


def test_selectors_meet_the_pods(rendered: Rendered) -> None:
    labels = rendered.deployment["template"]["metadata"]["labels"].items()
    selectors = [
        rendered.deployment["selector"]["matchLabels"],
        rendered.one("Service")["spec"]["selector"],
        rendered.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in rendered.pod["topologySpreadConstraints"]),
        *(policy["spec"]["podSelector"]["matchLabels"] for policy in rendered.all("NetworkPolicy")),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels


def test_a_rolling_update_never_takes_a_replica_before_its_successor_works(rendered: Rendered) -> None:
    strategy = rendered.deployment["strategy"]
    assert strategy["type"] == "RollingUpdate"
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
    assert strategy["rollingUpdate"]["maxSurge"] >= 1
    assert rendered.deployment["minReadySeconds"] > 0


def test_emptying_a_node_never_takes_the_last_replica(rendered: Rendered) -> None:
    budget = rendered.one("PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] >= 1
    assert rendered.deployment["replicas"] > budget["minAvailable"], "nodes could not be emptied at all"
    # While a relay is away no pod is ready, and that must not hold up the nodes.
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_replicas_are_spread(rendered: Rendered) -> None:
    spreads = {spread["topologyKey"]: spread for spread in rendered.pod["topologySpreadConstraints"]}
    assert set(spreads) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for spread in spreads.values():
        assert spread["maxSkew"] == 1
        # A cluster of one node runs them nevertheless.
        assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


# --- the network ---------------------------------------------------------------------------------


def test_the_service_leads_to_the_container(rendered: Rendered) -> None:
    spec = rendered.one("Service")["spec"]
    (port,) = spec["ports"]
    assert port["targetPort"] == rendered.container["ports"][0]["name"]
    assert spec["type"] == "ClusterIP", "nothing is put on the outside of the cluster"


def _rules(rendered: Rendered, way: str) -> Iterator[tuple[str, Object]]:
    for policy in rendered.all("NetworkPolicy"):
        for rule in policy["spec"].get(way, []):
            yield policy["metadata"]["name"], rule


def _ports(rendered: Rendered, policy: str) -> set[tuple[str, int | str]]:
    return {
        (port["protocol"], port["port"])
        for name, rule in _rules(rendered, "egress")
        if name == policy
        for port in rule["ports"]
    }


def test_all_else_is_closed(rendered: Rendered) -> None:
    # A policy that names both ways and selects the pods closes what no rule opens.
    assert set(rendered.one("NetworkPolicy", "mailsender")["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    for way, peers in (("ingress", "from"), ("egress", "to")):
        for name, rule in _rules(rendered, way):
            # Either of them missing means "all".
            assert rule.get(peers), name
            assert rule.get("ports"), name
            assert all(rule[peers]), f"{name}: an empty peer is everybody"


def test_the_service_reaches_what_its_settings_name(rendered: Rendered, settings: Settings) -> None:
    brokers = {("TCP", int(broker.rpartition(":")[2])) for broker in settings.brokers}
    databases = {("TCP", port) for _, port in parse_uri(settings.mongo_uri)["nodelist"]}

    assert _ports(rendered, "mailsender") == {("UDP", 53), ("TCP", 53)}
    assert _ports(rendered, "mailsender-kafka") == brokers
    assert _ports(rendered, "mailsender-mongodb") == databases
    assert ("TCP", settings.smtp_port) in _ports(rendered, "mailsender-relay")
    assert _ports(rendered, "mailsender-relay") <= {("TCP", 587), ("TCP", 465)}


def test_only_named_clients_come_in(rendered: Rendered) -> None:
    rules = list(_rules(rendered, "ingress"))
    assert rules
    for name, rule in rules:
        assert name == "mailsender-clients"
        assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
        for peer in rule["from"]:
            assert peer["podSelector"]["matchLabels"] == {"mailsender/client": "true"}


def test_the_relays_rule_leads_nowhere_inside(rendered: Rendered) -> None:
    """Neither to other pods nor to the cloud's metadata service."""
    inside = ["10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "127.0.0.1", "fd00::1", "fe80::1"]
    for name, rule in _rules(rendered, "egress"):
        if name != "mailsender-relay":
            continue
        for peer in rule["to"]:
            assert set(peer) == {"ipBlock"}
            network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
            excepted = [ipaddress.ip_network(cidr) for cidr in peer["ipBlock"].get("except", [])]
            for address in map(ipaddress.ip_address, inside):
                assert address not in network or any(address in one for one in excepted), address
