"""The base images, made from Debian's packages: nothing is pulled from anywhere."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.hostkube.config import DEBIAN_RELEASE, HERE, recipe_hash
from hack.hostkube.packages import ensure_packages
from hack.tools.common import run, say, step

DEBIAN_IMAGE = f"localhost/debian:{DEBIAN_RELEASE}-slim"
PYTHON_IMAGE = f"localhost/python-base:{DEBIAN_RELEASE}"
POSTGRES_IMAGE = "localhost/postgres:15"
REDIS_IMAGE = "localhost/redis:7"
RECIPE_LABEL = "hostkube.recipe"

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a -slim image leaves out.
DPKG_EXCLUDES = """\
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
"""

# Settings of the machine's apt that decide whether apt works at all behind this machine's network.
APT_SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")

INSTALL = "apt-get install -y -qq --no-install-recommends"
CLEAN = "apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt"

PYTHON_SETUP = f"""
apt-get update -qq
{INSTALL} python3.11 python3-venv python3-pip
# As in the official image: pip installs into the system, and an absolute /usr/local/bin path works too.
rm /usr/lib/python3.11/EXTERNALLY-MANAGED
for name in python python3 python3.11; do ln -s /usr/bin/python3.11 /usr/local/bin/$name; done
{CLEAN}
"""

POSTGRES_SETUP = f"""
groupadd --system --gid 999 postgres
useradd --system --uid 999 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres
apt-get update -qq
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
{INSTALL} postgresql-15 libnss-wrapper xz-utils zstd
# pg_wrapper's versions of the client programs look for Debian's clusters, which a container has not.
for program in /usr/lib/postgresql/15/bin/*; do ln -sf "$program" /usr/local/bin/; done
sed -i "s/^#listen_addresses = .*/listen_addresses = '*'/" /usr/share/postgresql/15/postgresql.conf.sample
mkdir -p /docker-entrypoint-initdb.d
install -d -o postgres -g postgres -m 3777 /var/run/postgresql
install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data
{CLEAN}
"""

REDIS_SETUP = f"""
groupadd --system --gid 999 redis
useradd --system --uid 999 --gid redis --home-dir /data --shell /usr/sbin/nologin redis
apt-get update -qq
{INSTALL} redis-server redis-tools
install -d -o redis -g redis -m 0755 /data
{CLEAN}
"""


@dataclass(frozen=True)
class Image:
    """An image on top of the Debian one: a shell script that sets it up, an entry point, and its settings."""

    name: str
    setup: str
    settings: tuple[str, ...]
    entrypoint: Path | None = None

    def recipe(self) -> str:
        files = [self.entrypoint] if self.entrypoint else []
        return recipe_hash(debian_recipe(), self.setup, *self.settings, *files)


IMAGES = (
    Image(
        PYTHON_IMAGE,
        PYTHON_SETUP,
        ("--env", f"PATH={SYSTEM_PATH}", "--env", "LANG=C.UTF-8", "--cmd", "python3"),
    ),
    Image(
        POSTGRES_IMAGE,
        POSTGRES_SETUP,
        (
            *("--env", f"PATH=/usr/lib/postgresql/15/bin:{SYSTEM_PATH}", "--env", "LANG=C.UTF-8"),
            *("--env", "PG_MAJOR=15", "--env", "PGDATA=/var/lib/postgresql/data"),
            *("--volume", "/var/lib/postgresql/data", "--port", "5432", "--stop-signal", "SIGINT"),
            *("--entrypoint", '["docker-entrypoint.sh"]', "--cmd", "postgres"),
        ),
        HERE / "entrypoints" / "postgres" / "docker-entrypoint.sh",
    ),
    Image(
        REDIS_IMAGE,
        REDIS_SETUP,
        (
            *("--env", f"PATH={SYSTEM_PATH}", "--volume", "/data", "--workingdir", "/data", "--port", "6379"),
            *("--entrypoint", '["docker-entrypoint.sh"]', "--cmd", "redis-server"),
        ),
        HERE / "entrypoints" / "redis" / "docker-entrypoint.sh",
    ),
)


def debian_recipe() -> str:
    return recipe_hash(DEBIAN_RELEASE, DPKG_EXCLUDES)


def made(name: str, recipe: str) -> bool:
    """Whether buildah's storage holds this image, made by this recipe."""
    template = f'{{{{index .OCIv1.Config.Labels "{RECIPE_LABEL}"}}}}'
    command = ["buildah", "inspect", "--type", "image", "--format", template, name]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.returncode == 0 and answer.stdout.strip() == recipe


@contextmanager
def working_container(base: str) -> Iterator[str]:
    """A container to build an image in; it is gone afterwards, whether the build went well or not."""
    container = run(["buildah", "from", "--pull-never", base]).strip()
    try:
        yield container
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True, check=False)


def execute(container: str, script: str) -> None:
    shell = ["sh", "-ec", f"export DEBIAN_FRONTEND=noninteractive\n{script}"]
    run(["buildah", "run", "--isolation", "chroot", "--network", "host", container, "--", *shell])


def commit(container: str, name: str, recipe: str, settings: tuple[str, ...]) -> None:
    run(["buildah", "config", "--label", f"{RECIPE_LABEL}={recipe}", *settings, container])
    run(["buildah", "commit", "--quiet", container, name])


def apt_sources() -> str:
    """The Debian archives that this machine itself uses."""
    fields = "$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).splitlines()
    wanted = [line.removeprefix("Debian|") for line in lines if line.startswith("Debian|")]
    return "".join(f"{line}\n" for line in dict.fromkeys(wanted) if f" {DEBIAN_RELEASE}" in line)


def apt_settings() -> str:
    lines = run(["apt-config", "dump", "--no-empty"]).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(APT_SETTINGS))


def make_debian_image() -> None:
    with step(f"make {DEBIAN_IMAGE}"), working_container("scratch") as container:
        root = Path(run(["buildah", "mount", container]).strip())
        run(["debootstrap", "--variant=minbase", "--include=ca-certificates", DEBIAN_RELEASE, root])
        (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(DPKG_EXCLUDES)
        if sources := apt_sources():
            (root / "etc/apt/sources.list").write_text(sources)
        (root / "etc/apt/apt.conf.d/80host").write_text(apt_settings())
        trust_what_the_host_trusts(root)
        execute(
            container,
            f"""
            apt-get update -qq
            apt-get dist-upgrade -y -qq
            find /usr/share/doc -type f ! -name copyright -delete
            rm -rf /usr/share/man/* /usr/share/info/* /usr/share/locale/* /debootstrap
            {CLEAN}
            """,
        )
        commit(container, DEBIAN_IMAGE, debian_recipe(), ("--env", f"PATH={SYSTEM_PATH}", "--cmd", "bash"))


def trust_what_the_host_trusts(root: Path) -> None:
    """A network that only lets through what its own authority signed must let through a build as well."""
    own = Path("/usr/local/share/ca-certificates")
    if own.is_dir():
        shutil.copytree(own, root / "usr/local/share/ca-certificates", dirs_exist_ok=True)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        shutil.copyfile(bundle, root / "etc/ssl/certs/ca-certificates.crt")
    # Some versions of pip bring a bundle of their own.
    (root / "etc/pip.conf").write_text(f"[global]\ncert = {bundle}\n")


def make_image(image: Image) -> None:
    with step(f"make {image.name}"), working_container(DEBIAN_IMAGE) as container:
        execute(container, image.setup)
        if image.entrypoint:
            target = f"/usr/local/bin/{image.entrypoint.name}"
            run(["buildah", "copy", "--chmod", "755", container, image.entrypoint, target])
        commit(container, image.name, image.recipe(), image.settings)


def make_images() -> None:
    ensure_packages()
    wanted = [image for image in IMAGES if not made(image.name, image.recipe())]
    if wanted and not made(DEBIAN_IMAGE, debian_recipe()):
        make_debian_image()
    for image in wanted:
        make_image(image)
    for image in IMAGES:
        say(f"{image.name} {'made' if image in wanted else 'is up to date'}")
