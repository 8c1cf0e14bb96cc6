"""A Kafka broker on this machine: one KRaft node, its own controller."""

import base64
import socket
import subprocess
import uuid

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from hub.errors import OutsideError
from stack.servers import JavaServer, free_ports
from stack.settings import HERE, read_properties, write_properties

ASK_MILLISECONDS = 1000


class Broker(JavaServer):
    name = "kafka"
    main = "kafka.Kafka"
    heap = "512m"

    @property
    def bootstrap(self) -> str:
        """What a client is given: host:port."""
        return self.setting("advertised.listeners").partition(",")[0].removeprefix("PLAINTEXT://")

    def settle_in(self) -> None:
        data = self.directory / "kafka"
        if not self.properties.exists():
            broker, controller = free_ports(2)
            listeners = f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}"
            local = {
                "listeners": listeners,
                "advertised.listeners": listeners,
                "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
                "log.dirs": str(data),
            }
            write_properties(self.properties, read_properties(HERE / "broker.properties") | local)
        if not (data / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = self.java("kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster}")
        with self.log.open("ab") as log:
            done = subprocess.run(
                [*command, "--config", str(self.properties)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if done.returncode:
            raise OutsideError(f"Kafka could not make its data folder: {self.said()}")

    def is_ready(self) -> bool:
        """A client sees the node: it has its controller and takes requests."""
        host, port = self.bootstrap.split(":")
        try:
            # Before it listens a client would only fill the log.
            socket.create_connection((host, int(port)), timeout=ASK_MILLISECONDS / 1000).close()
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=ASK_MILLISECONDS)
        except (OSError, KafkaError):
            return False
        try:
            return bool(admin.describe_cluster()["brokers"])
        except KafkaError:
            return False
        finally:
            admin.close()
