"""How large what is shipped is: the libraries of each image, and the images where there are any."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from hack.dev.errors import DevError
from hack.dev.layout import REPOSITORY

_PATIENCE_SECONDS = 60


def libraries(site_packages: Path) -> dict[str, int]:
    """Bytes by distribution, with the bytecode, the largest first."""
    sizes: dict[str, int] = {}
    for distribution in metadata.distributions(path=[str(site_packages)]):
        places = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
        bytecode = {
            cached
            for place in places
            if place.suffix == ".py"
            for cached in (place.parent / "__pycache__").glob(f"{place.stem}.*.pyc")
        }
        sizes[distribution.name] = sum(place.stat().st_size for place in places | bytecode if place.is_file())
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def sources() -> int:
    """Bytes of the platform's and the product's own sources, which the images copy."""
    folders = [REPOSITORY / "packages", REPOSITORY / "services"]
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if "__pycache__" not in path.parts)


def images(tool: str) -> list[tuple[str, str]]:
    """Name and size of the images of ours that `tool` (docker, podman, buildah) lists. Raises DevError without it."""
    if shutil.which(tool) is None:
        raise DevError(f"{tool} is not installed")
    form = "{{.Name}}:{{.Tag}}\t{{.Size}}" if tool == "buildah" else "{{.Repository}}:{{.Tag}}\t{{.Size}}"
    result = subprocess.run(
        [tool, "images", "--format", form],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_SECONDS,
    )
    if result.returncode != 0:
        raise DevError(f"{tool} images failed", log=result.stderr.splitlines()[-10:])
    return ours(result.stdout)


def ours(listing: str) -> list[tuple[str, str]]:
    """The platform's images among lines of name, tab, size."""
    found = [line.split("\t") for line in listing.splitlines() if "\t" in line]
    return sorted({(name, size) for name, size in found if "scalable-fastapi-system/" in name})
