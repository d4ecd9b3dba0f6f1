"""The device that is computed on: the one asked for, or one GPU for each process that trains."""

import getpass
import itertools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mixkd.store import UserError

if TYPE_CHECKING:
    import torch

#: The locks of this process; the operating system releases them when it ends, however it ends.
_held: list[FileLock] = []


def choose_device(device: str | None) -> "torch.device":
    """The device called "cpu" or "cuda"; None: CUDA if there is one.

    Raises:
        UserError: If there is no such device.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if device not in (None, "cpu", "cuda") or (device == "cuda" and not has_cuda):
        available = "cpu or cuda" if has_cuda else "cpu (there is no CUDA device here)"
        raise UserError(f"The device {device!r} cannot be used; choose {available}.")
    return torch.device(device or ("cuda" if has_cuda else "cpu"))


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; CUDA is not initialised by asking."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        return [str(index) for index in range(torch.cuda.device_count())]
    # CUDA reads the list up to the first entry that is no device, such as -1.
    names = (name.strip() for name in named.split(","))
    return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))


def device_name(device: "torch.device") -> str:
    """Name of a device: of a GPU what its driver tells, otherwise its type, such as "cpu"."""
    import torch

    is_gpu = device.type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if is_gpu else device.type


def gpu_name() -> str | None:
    """Name of the first GPU, if the driver tells it; asked of torch, it would initialise CUDA."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.partition("\n")[0].strip()


def claim_gpu() -> str | None:
    """Take the least used of several GPUs for the rest of this process's life, and hide the others from it.

    Has to come before CUDA is initialised. Processes of this user on this host keep out of one another's way by file
    locks, whoever started them; where there are more of them than GPUs, they are spread evenly.

    Returns:
        The GPU's name, or None where there are fewer than two to choose from.
    """
    gpus = visible_gpus()
    if len(gpus) < 2:
        return None
    folder = Path(tempfile.gettempdir()) / f"mixkd-gpus-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    places = ((gpu, place) for place in itertools.count() for gpu in gpus)  # the first place on every GPU comes first
    gpu, lock = next((gpu, lock) for gpu, place in places if (lock := _try_lock(folder / f"{gpu}.{place}.lock")))
    _held.append(lock)
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    return gpu


def _try_lock(path: Path) -> FileLock | None:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
