"""An authority of the tests' own and certificates by it, made by OpenSSL's command."""

import subprocess
from pathlib import Path

_DAYS = "2"


class Authority:
    """`certificate` is what clients trust."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = directory / "authority.key"
        self.certificate = directory / "authority.pem"
        subject = ["-subj", "/CN=tests", "-addext", "basicConstraints=critical,CA:TRUE"]
        _openssl("req", "-x509", "-nodes", *_new_key(self._key), *subject, "-days", _DAYS, "-out", self.certificate)

    def issue(self, host: str) -> Path:
        """PEM of a certificate for `host` and its key."""
        key, request, made = (self._directory / f"{host}.{end}" for end in ("key", "csr", "pem"))
        extensions = self._directory / f"{host}.ext"
        extensions.write_text(f"subjectAltName=DNS:{host}\n")
        _openssl("req", "-nodes", *_new_key(key), "-subj", f"/CN={host}", "-out", request)
        authority = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, *authority, "-days", _DAYS, "-out", made)
        made.write_bytes(made.read_bytes() + key.read_bytes())
        return made


def _new_key(path: Path) -> list[str | Path]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", path]


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
