"""Boards that a file may run on, one TOML file each, and whether it fits.

- ``load_device``, ``list_devices``: a profile by its name or its file; all of ours.
- ``DeviceProfile``: RAM, flash, core, clock, runtimes, operators, NPU; every figure with its public source.
- ``fit_device``: RAM and flash that a file needs against what the board has, and an estimate of its latency.

Base install only: neither numpy nor torch.
"""

from edgeprune.devices.fit import fit_device
from edgeprune.devices.latency import estimate_latency_ms
from edgeprune.devices.profile import DeviceProfile, list_devices, load_device

__all__ = ["DeviceProfile", "estimate_latency_ms", "fit_device", "list_devices", "load_device"]
