"""Certificates for tests of TLS: an authority, and what it signs, right or wrong. Needs the command `openssl`."""

import shutil
import subprocess
from pathlib import Path

from tests.support.servers import Missing

_CONFIG = """
[ca]
default_ca = ours
[ours]
database = {directory}/index
new_certs_dir = {directory}
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
[ext]
subjectAltName = {name}
"""


class Authority:
    """An authority in a directory of its own; `pem` is its certificate."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            raise Missing("certificates are made by openssl: apt-get install openssl")
        directory.mkdir()
        self.directory = directory
        self.pem, self._key = directory / "ca.pem", directory / "ca.key"
        self._openssl("req", "-x509", *_new_key(self._key), "-out", str(self.pem), "-subj", "/CN=ca", "-days", "2")

    def sign(self, name: str, *, expired: bool = False) -> Path:
        """A PEM file with a new key and its certificate; `name` is `IP:127.0.0.1` or `DNS:example.com`."""
        stem = f"{name.replace(':', '-')}-{expired}"
        key, request, signed, both = (self.directory / f"{stem}.{end}" for end in ("key", "csr", "pem", "all"))
        (self.directory / "index").write_text("")
        (self.directory / "ca.cnf").write_text(_CONFIG.format(directory=self.directory, name=name))
        self._openssl("req", *_new_key(key), "-out", str(request), "-subj", f"/CN={stem}")
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z" if expired else "20400101000000Z"]
        self._openssl(
            *("ca", "-batch", "-notext", "-config", str(self.directory / "ca.cnf"), "-extensions", "ext", *dates),
            *("-cert", str(self.pem), "-keyfile", str(self._key), "-in", str(request), "-out", str(signed)),
        )
        both.write_text(key.read_text() + signed.read_text())
        return both

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]
