"""A real S3 server for the tests: versitygw over a folder, on a free port of this machine."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from hack.dev.ports import find_free
from hack.tools.common import cache_root

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-key"
BUCKET = "files"


def find_program() -> str | None:
    """Where versitygw is: in the tools' cache (`hack/tools/install versitygw`) or on PATH."""
    cached = cache_root() / "tools" / "bin" / "versitygw"
    return str(cached) if cached.exists() else shutil.which("versitygw")


class S3Server:
    """A running versitygw with one empty bucket."""

    def __init__(self, program: str, folder: Path) -> None:
        self.data = folder / "data"
        self.bucket = self.data / BUCKET
        self.bucket.mkdir(parents=True)
        (
            folder / "sidecar"
        ).mkdir()  # metadata in files: the machine's temporary folder may keep no attributes
        port = find_free()
        self.endpoint = f"http://127.0.0.1:{port}"
        with (folder / "log").open("w") as log:
            self._child = subprocess.Popen(
                [
                    program, "--port", f"127.0.0.1:{port}", "--access", ACCESS_KEY, "--secret", SECRET_KEY,
                    "--quiet", "posix", "--sidecar", str(folder / "sidecar"), str(self.data),
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )  # fmt: skip
        self._wait()

    @property
    def options(self) -> dict[str, str]:
        """STORAGE__OPTIONS for this server."""
        return {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "allow_http": "true",
        }

    def files_on_disk(self) -> list[str]:
        """Every file that the server holds in the bucket, parts of unfinished uploads too."""
        found = (path for path in self.bucket.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.bucket)) for path in found)

    def stop(self) -> None:
        self._child.terminate()
        self._child.wait(10)

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.endpoint, timeout=1)
            except urllib.error.HTTPError:
                return  # it answers: without a signature it refuses
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError("versitygw did not answer within 20 s")
