"""Energy that the processor or the GPU has used, where the machine tells."""

from pathlib import Path
from typing import Any

import torch

#: Linux' counters of a processor's packages: microjoules, which start again from zero.
POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Reads counters of energy.

    Attributes:
        obstacle: Why it cannot; empty if it can.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP):
        self.obstacle = ""
        self._gpu: Any = None
        self._packages: list[Path] = []
        if device.type == "cuda":
            try:
                import pynvml

                pynvml.nvmlInit()
                self._gpu = pynvml, pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
                pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu[1])
            except ImportError:
                self.obstacle = "Energy of a GPU is read with NVML: pip install 'mixkd[energy]'."
            except pynvml.NVMLError as error:
                self.obstacle = f"This GPU does not tell its energy ({error})."
            return
        for package in sorted(powercap.glob("intel-rapl:*")):
            if package.name.count(":") == 1 and _can_read(package / "energy_uj"):
                self._packages.append(package)
        self._last = [_microjoules(package, "energy_uj") for package in self._packages]
        self._total_uj = 0
        if not self._packages:
            self.obstacle = "This machine does not tell its energy (no readable powercap counter)."

    def read_j(self) -> float | None:
        """Joules since some origin; None if the machine does not tell."""
        if self.obstacle:
            return None
        if self._gpu:
            pynvml, handle = self._gpu
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        for k, package in enumerate(self._packages):
            now = _microjoules(package, "energy_uj")
            wrapped = _microjoules(package, "max_energy_range_uj") if now < self._last[k] else 0
            self._total_uj += now + wrapped - self._last[k]
            self._last[k] = now
        return self._total_uj / 1e6


def _can_read(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True


def _microjoules(package: Path, name: str) -> int:
    return int((package / name).read_text())
