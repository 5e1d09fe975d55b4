"""The two images of this project, tagged by what is in them: the same sources are never built twice."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from hack.clusters.programs import program
from hack.tools.common import REPOSITORY, ToolError, run, say, step

SERVICES = ("api", "worker")
REPOSITORY_NAME = "scalable-fastapi-system"
TAG_PREFIX = "dev-"
Builder = Literal["docker", "buildah"]


def sources(root: Path) -> list[Path]:
    """Every file that an image's content depends on."""
    found = [root / ".dockerignore"]
    for service in SERVICES:
        found += [root / "requirements" / f"{service}.txt"]
    for folder in ("packages", "services"):
        found += (path for path in (root / folder).rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts and path.suffix != ".pyc")


def content_tag(root: Path, base: str) -> str:
    """A tag for exactly these sources on exactly this base."""
    digest = hashlib.sha256(base.encode())
    for path in sources(root):
        digest.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return TAG_PREFIX + digest.hexdigest()[:12]


class Images:
    """Builds the images with one builder, under one registry name."""

    def __init__(self, builder: Builder, registry: str, python_image: str | None = None) -> None:
        """`python_image`: the base, where it is not the Dockerfiles' own."""
        self.builder = builder
        self.registry = registry
        self.python_image = os.environ.get("PYTHON_IMAGE") or python_image
        self.tag = content_tag(REPOSITORY, self._base())

    def name(self, service: str) -> str:
        return f"{self.registry}/{REPOSITORY_NAME}/{service}:{self.tag}"

    def names(self) -> list[str]:
        return [self.name(service) for service in SERVICES]

    def build(self) -> list[str]:
        """Build what is not there yet; the names of both images."""
        for service in SERVICES:
            if self._is_built(service):
                say(f"{self.name(service)} is up to date")
                continue
            with step(f"build {self.name(service)}"):
                run(self._build_command(service), cwd=REPOSITORY)
            self._forget_older(service)
        return self.names()

    def _base(self) -> str:
        """The base image's identity: its id where the builder has it, else its name."""
        name = self.python_image or "the Dockerfile's own"
        if self.python_image and self.builder == "buildah":
            try:
                identity = run([program("buildah"), "images", "--quiet", "--no-trunc", self.python_image])
            except ToolError as error:
                raise ToolError(
                    f"the base image {self.python_image} does not exist",
                    "`hack/hostkube/hostkube images` makes it",
                ) from error
            return f"{name} {identity.strip()}"
        return name

    def _is_built(self, service: str) -> bool:
        command = [program(self.builder), "images", "--quiet"]
        if self.builder == "docker":
            return bool(run([*command, self.name(service)]).strip())
        listed = run([program("buildah"), "images", "--format", "{{.Name}}:{{.Tag}}"]).splitlines()
        return self.name(service) in listed

    def _build_command(self, service: str) -> list[str]:
        command = [program(self.builder)]
        if self.builder == "docker":
            command += ["build"]
        else:
            # chroot: no new namespaces, so that it works in containers and small VMs; docker: HEALTHCHECK is kept
            command += ["bud", "--isolation", "chroot", "--layers", "--format", "docker"]
        command += [
            "--network",
            "host",
            "--file",
            f"services/{service}/Dockerfile",
            "--tag",
            self.name(service),
        ]
        if self.python_image:
            command += ["--build-arg", f"PYTHON_IMAGE={self.python_image}"]
        for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
            if value := os.environ.get(variable):
                command += ["--build-arg", f"{variable}={value}"]
        bundle = os.environ.get("PIP_CERT", "")
        if bundle and Path(bundle).is_file():
            command += ["--secret", f"id=ca-bundle,src={bundle}"]
        return [*command, "."]

    def _forget_older(self, service: str) -> None:
        """Take away earlier builds of this image by this tool; their layers stay where the new one uses them."""
        listed = run([program(self.builder), "images", "--format", self._listing()]).splitlines()
        prefix = f"{self.registry}/{REPOSITORY_NAME}/{service}:{TAG_PREFIX}"
        for old in listed:
            if old.startswith(prefix) and old != self.name(service):
                run([program(self.builder), "rmi", old])

    def _listing(self) -> str:
        return "{{.Repository}}:{{.Tag}}" if self.builder == "docker" else "{{.Name}}:{{.Tag}}"
