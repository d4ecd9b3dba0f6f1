"""The counters of a processor's packages, as Linux shows them."""

import pytest
import torch

from benchmarks.energy import EnergyMeter


def package(folder, name, energy_uj, largest_uj=1000):
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{largest_uj}\n")


def test_packages_are_summed_and_their_parts_are_not(tmp_path):
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        package(tmp_path, name, 100)
    meter = EnergyMeter(torch.device("cpu"), tmp_path)
    assert meter.obstacle == "" and meter.read_j() == 0
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        package(tmp_path, name, 150)
    assert meter.read_j() == pytest.approx(100e-6)


def test_a_counter_that_starts_again_goes_on(tmp_path):
    package(tmp_path, "intel-rapl:0", 990)
    meter = EnergyMeter(torch.device("cpu"), tmp_path)
    package(tmp_path, "intel-rapl:0", 20)
    assert meter.read_j() == pytest.approx(30e-6)
    package(tmp_path, "intel-rapl:0", 25)
    assert meter.read_j() == pytest.approx(35e-6)


def test_a_machine_that_does_not_tell_says_why(tmp_path):
    meter = EnergyMeter(torch.device("cpu"), tmp_path)
    assert meter.read_j() is None and "does not tell its energy" in meter.obstacle
