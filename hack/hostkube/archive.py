"""Images that hold one static program, written as a docker-archive without any image tool."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from hack.hostkube.components import PAUSE_IMAGE
from hack.hostkube.config import COREDNS_VERSION, LOCAL_PATH_VERSION, METRICS_SERVER_VERSION

ARCHIVE_NAME = "system-images.tar"
BUSYBOX = Path("/usr/bin/busybox")
BUSYBOX_COMMANDS = ("sh", "mkdir", "rm")


@dataclass(frozen=True)
class ProgramImage:
    """An image with a program in /bin, which it starts, and other names for that program."""

    name: str
    program: Path
    aliases: tuple[str, ...] = ()


def layer(image: ProgramImage) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder, mode in (("bin", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        entry = tarfile.TarInfo(f"bin/{image.program.name}")
        entry.size, entry.mode = image.program.stat().st_size, 0o755
        with image.program.open("rb") as content:
            archive.addfile(entry, content)
        for alias in image.aliases:
            link = tarfile.TarInfo(f"bin/{alias}")
            link.type, link.linkname = tarfile.SYMTYPE, image.program.name
            archive.addfile(link)
    return buffer.getvalue()


def write_archive(target: Path, images: list[ProgramImage]) -> None:
    """Write all images into one file, in the layout of `docker save`."""
    manifest = []
    with tarfile.open(target, "w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for image in images:
            content = layer(image)
            digest = hashlib.sha256(content).hexdigest()
            config = {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": [f"/bin/{image.program.name}"], "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
            text = json.dumps(config).encode()
            config_name = f"{hashlib.sha256(text).hexdigest()}.json"
            add(f"{digest}.tar", content)
            add(config_name, text)
            manifest.append({"Config": config_name, "RepoTags": [image.name], "Layers": [f"{digest}.tar"]})
        add("manifest.json", json.dumps(manifest).encode())


def system_images(programs: Path) -> list[ProgramImage]:
    """The images of the pods that belong to the node itself."""
    return [
        ProgramImage(PAUSE_IMAGE, programs / "pause"),
        ProgramImage(f"localhost/hostkube/coredns:{COREDNS_VERSION}", programs / "coredns"),
        ProgramImage(
            f"localhost/hostkube/metrics-server:{METRICS_SERVER_VERSION}", programs / "metrics-server"
        ),
        ProgramImage(
            f"localhost/hostkube/local-path-provisioner:{LOCAL_PATH_VERSION}",
            programs / "local-path-provisioner",
        ),
        ProgramImage("localhost/hostkube/busybox:1", BUSYBOX, BUSYBOX_COMMANDS),
    ]
