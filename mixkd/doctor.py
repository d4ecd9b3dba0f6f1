"""What this machine can run, for people: versions, devices, assets, hub, disk."""

import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mixkd import assets
from mixkd.store import now, provenance

#: A suite of quick size leaves about this much in its store.
COMFORTABLE_DISK_BYTES = 5e9


def diagnose(output: Path) -> Iterator[str]:
    """Lines that say what is there, each as soon as it is known."""
    import torch

    here = provenance(device="cpu", num_threads=torch.get_num_threads(), seeds={}, started_at=now())
    yield f"source      commit {here.commit or 'unknown'}{' with uncommitted changes' if here.dirty else ''}"
    yield f"python      {here.python} on {here.platform}"
    yield f"packages    {', '.join(f'{name} {version}' for name, version in here.versions.items())}"
    yield f"processor   {here.processor}, {os.cpu_count()} cores, torch uses {here.num_threads} threads"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"cuda        {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        yield "cuda        none: training and benchmarks run on the processor"
    for status in assets.status(verify=True):
        yield f"asset       {status.name}: {status.state} ({status.folder})"
    yield f"hub         {_hub_state()}"
    folder = next(path for path in [output.absolute(), *output.absolute().parents] if path.exists())
    free = shutil.disk_usage(folder).free
    advice = "" if free > COMFORTABLE_DISK_BYTES else ": little; choose another --output"
    yield f"disk        {free / 1e9:.1f} GB free for {output}{advice}"


def _hub_state() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "offline by choice (HF_HUB_OFFLINE is set): minilm and local folders work"
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=5):
            return "reachable: hub ids and GLUE can be fetched"
    except OSError as error:
        return f"not reachable ({getattr(error, 'reason', error)}): minilm and local folders work"
