"""The CPU image, really built and run: by buildah in a chroot, on a base made of Debian's packages.

``make test-docker``; it needs root, several GB of disk and some twenty minutes, and is skipped
otherwise. Neither Docker nor a registry of images is needed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.distributed.launcher import ROOT
from tests.services.packages import install, need
from tests.unavailable import unavailable

pytestmark = pytest.mark.timeout(5400)

RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
CERTIFICATES = "/host-certificates.crt"


class Builder:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._options = [
            *("--root", str(folder / "root"), "--runroot", str(folder / "run")),
            *("--storage-driver", "vfs"),
        ]

    def __call__(self, *words: str) -> str:
        """Run a command of buildah; its output."""
        done = subprocess.run(
            ["buildah", *self._options, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-5000:]}"
        return done.stdout.strip()


def apt_mirror() -> str:
    """The mirror of Debian that this machine itself uses."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[.*\])?) (http\S+/debian)/?\s", text, re.MULTILINE)
    return found[1] if found else MIRROR


def pip_options(folder: Path) -> list[str]:
    """What hands this machine's own pip settings to the build: a secret, and folders they name."""
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    settings = {
        name.rpartition(".")[2]: shlex.split(value)[0]
        for name, _, value in (line.partition("=") for line in listed.splitlines())
    }
    options, lines = [], ["[global]"]
    for name in ("index-url", "extra-index-url", "find-links"):
        places = []
        for place in settings.get(name, "").split():
            local = urlsplit(place).path if "://" in place else place
            if place.startswith(("file://", "/")):
                if not Path(local).exists():
                    continue
                # An index refers to files beside it.
                mounted = str(Path(local).parent if place.startswith("file://") else local)
                options += ["--volume", f"{mounted}:{mounted}:ro"]
            places.append(place)
        if places:
            lines.append(f"{name} = {' '.join(places)}")
    if certificates := settings.get("cert"):
        options += ["--volume", f"{certificates}:{CERTIFICATES}:ro"]
        lines.append(f"cert = {CERTIFICATES}")
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    if "find-links" in settings:
        # Such a machine has a PyTorch of its own.
        options += ["--build-arg", "CPU_TORCH_INDEX="]
    return ["--secret", f"id=pip.conf,src={folder / 'pip.conf'}", *options]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> tuple[Builder, str]:
    """buildah, and the name of a container of the image."""
    if os.environ.get("PRS_MED_BUILD_IMAGE") != "1":
        pytest.skip("building the image takes long: 'make test-docker' does it")
    if os.geteuid() != 0:
        unavailable("building in a chroot needs root")
    need(
        install(("buildah", "debootstrap"), ("buildah", "debootstrap")), "buildah is not installed"
    )
    folder = tmp_path_factory.mktemp("image")
    buildah = Builder(folder)
    base = ["debootstrap", "--variant=minbase", RELEASE, str(folder / "base"), apt_mirror()]
    subprocess.run(base, check=True, stdout=subprocess.DEVNULL)
    scratch = buildah("from", "scratch")
    buildah("add", "--quiet", scratch, str(folder / "base"), "/")
    buildah("commit", "--quiet", scratch, "debian-base")
    buildah("rm", scratch)
    images = ("CPU_IMAGE", "CUDA_IMAGE", "CUDA_BUILD_IMAGE")
    buildah(
        *("bud", "--isolation", "chroot", "--layers=false", "--build-arg", "DEVICE=cpu"),
        *(word for name in images for word in ("--build-arg", f"{name}=localhost/debian-base")),
        *pip_options(folder),
        *("-f", "docker/Dockerfile", "-t", "prs-med:cpu", "."),
    )
    return buildah, buildah("from", "prs-med:cpu")


def run(container: tuple[Builder, str], *words: str) -> str:
    """What a command prints in the container, started by the image's own entry point."""
    buildah, name = container
    # In Go's own template language: Debian's buildah has no function "json".
    each = "{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}"
    start = [*buildah("inspect", "--format", each, name).split(), *words]
    # Not the first process there, as it is in a container of Docker's.
    start[1:1] = ["-s"]
    return buildah("run", "--isolation", "chroot", name, "--", *start)


def test_it_runs_as_a_normal_user(container: tuple[Builder, str]) -> None:
    assert run(container, "id", "-u") == "1000"
    assert run(container, "sh", "-c", "touch runs/x && ! touch prs_med/x 2>/dev/null") == ""


def test_it_tells_what_it_can_do(container: tuple[Builder, str]) -> None:
    assert run(container).startswith('What "docker run IMAGE ..." starts:')
    for program in ("train", "eval", "infer", "data", "export", "plan"):
        assert f"{program}.py" in run(container, program, "--help")


def test_it_has_the_pinned_versions_and_no_compiler(container: tuple[Builder, str]) -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    frozen = run(container, "pip", "freeze", "--exclude-editable").splitlines()
    versions = dict(line.split("==") for line in frozen if "==" in line)
    assert len(versions) > 50
    for name, version in versions.items():
        assert version.partition("+")[0] == pins.get(name, version).partition("+")[0], name
    assert run(container, "sh", "-c", "command -v gcc || echo none") == "none"


def test_the_first_steps_of_the_demo(container: tuple[Builder, str]) -> None:
    output = run(container, "demo", "--steps", "2")
    assert "Look at runs/demo/evaluation/report.html" in output
    run(container, "test", "-f", "runs/demo/run/final/segmentation.safetensors")
