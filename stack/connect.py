"""A Kafka Connect worker on this machine, with Debezium's Postgres connector and the hub's converter in it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import httpx

from cdc.converter import jar
from stack.jars import Jars
from stack.servers import JavaServer, free_ports
from stack.settings import HERE, read_properties, write_properties

ASK_SECONDS = 5.0


class Connect(JavaServer):
    """A connector finds secrets in files below `secrets`, and in `environ`."""

    name = "connect"
    main = "org.apache.kafka.connect.cli.ConnectDistributed"
    heap = "768m"

    def __init__(
        self,
        jars: Jars,
        directory: Path,
        bootstrap: str,
        *,
        environ: Mapping[str, str] | None = None,
        lasting: bool = False,
    ) -> None:
        super().__init__(jars, directory, environ=environ, lasting=lasting)
        self._bootstrap = bootstrap
        self.secrets = self.directory / "secrets"

    @property
    def url(self) -> str:
        """Of its REST interface."""
        return self.setting("listeners")

    def settle_in(self) -> None:
        self.secrets.mkdir(mode=0o700, exist_ok=True)
        plugins = self._plugins()
        if not self.properties.exists():
            local = {
                "bootstrap.servers": self._bootstrap,
                "listeners": f"http://127.0.0.1:{free_ports(1)[0]}",
                "rest.advertised.host.name": "127.0.0.1",
                "plugin.path": str(plugins),
                "config.providers.file.param.allowed.paths": str(self.secrets),
                "config.providers.dir.param.allowed.paths": str(self.secrets),
            }
            write_properties(self.properties, read_properties(HERE / "connect.properties") | local)

    def _plugins(self) -> Path:
        """The connector with the hub's converter beside it, where the connector's class loader looks for classes."""
        plugins = self.directory / "plugins"
        shutil.rmtree(plugins, ignore_errors=True)
        folder = plugins / self.jars.connector.name
        folder.mkdir(parents=True)
        for each in (*self.jars.connector.glob("*.jar"), jar()):
            (folder / each.name).symlink_to(each)
        return plugins

    def is_ready(self) -> bool:
        """The worker is in its group and takes connectors."""
        try:
            return httpx.get(f"{self.url}/health", timeout=ASK_SECONDS).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
