"""NVIDIA GPUs through NVML: the total-energy counter, or integrated power samples, which are labelled so.

(nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver was loaded, Volta and newer;
nvmlDeviceGetPowerUsage: milliwatts)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ...estimator.base.errors import MeterError
from .rapl import SystemClock, system_clock
from .tally import Domain, Failure, Mirror, Sample

GPU_CEILING_W = 3000
# Drivers refresh it every 20 to 100 ms. This is twice as long, so that no regular step looks like a reset.
REFRESH_NS = 200_000_000


def visible_indices(variable: str | None, uuids: Sequence[str]) -> list[int]:
    """The NVML indices that `CUDA_VISIBLE_DEVICES` leaves visible, in its order. Pure.

    As CUDA reads it: unset shows all; entries are indices or starts of UUIDs; the list ends at the
    first entry that names no GPU. Raises MeterError for MIG instances, whose energy has no counter.
    """
    if variable is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in (part.strip() for part in variable.split(",")):
        if entry.startswith("MIG-"):
            raise MeterError(
                f"CUDA_VISIBLE_DEVICES names the MIG instance {entry}: NVML counts energy for whole GPUs"
                " only; train on a GPU without MIG to measure it"
            )
        if entry.isdecimal():
            matches = [int(entry)] if int(entry) < len(uuids) else []
        else:
            matches = [index for index, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(matches) != 1 or set(matches) & set(found):
            break
        found += matches
    return found


class NoGpuError(MeterError):
    """Nothing to read: no driver, no library or no visible GPU. With any other MeterError a GPU may be in use."""


class NvmlSource:
    """The visible GPUs, one domain each, named by their NVML index.

    Raises NoGpuError if there is none, MeterError if NVML fails or CUDA's variables are ambiguous.
    `pynvml`: the module of nvidia-ml-py, or a fake of it (`testing.FakeNvml`).
    """

    name = "nvml"

    def __init__(
        self,
        pynvml: Any = None,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: SystemClock = system_clock,
    ) -> None:
        self._nvml = _import_pynvml() if pynvml is None else pynvml
        self._clock = clock
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            if error.value in (self._nvml.NVML_ERROR_DRIVER_NOT_LOADED, self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND):
                raise NoGpuError(f"NVML answers {error}: no NVIDIA driver is running") from error
            raise MeterError(f"NVML answers {error}; check that nvidia-smi lists the GPU") from error
        try:
            self._open(environ)
        except self._nvml.NVMLError as error:
            self.close()
            raise MeterError(f"NVML answers {error}; check that nvidia-smi lists the GPU") from error
        except MeterError:
            self.close()
            raise

    def _open(self, environ: Mapping[str, str]) -> None:
        nvml = self._nvml
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        variable = environ.get("CUDA_VISIBLE_DEVICES")
        indices = visible_indices(variable, [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles])
        if not indices:
            shown = "" if variable is None else f" (CUDA_VISIBLE_DEVICES is {variable!r})"
            raise NoGpuError(f"no GPU among {len(handles)} is visible{shown}")
        self._check_order(environ, variable, handles)
        self._handles = [handles[index] for index in indices]
        self._mig = [self._mig_is_on(handle) for handle in self._handles]
        self.domains = tuple(map(self._domain, indices, self._handles))
        self.notes = tuple(f"{domain.name}: {domain.note}" for domain in self.domains if domain.note)
        self.failures = tuple(
            value.reason for index in range(len(self._handles)) if isinstance(value := self._value(index), Failure)
        )

    def _check_order(self, environ: Mapping[str, str], variable: str | None, handles: list[Any]) -> None:
        """CUDA by default numbers the fastest GPU first, NVML numbers by PCI bus: only equal GPUs are unambiguous."""
        by_index = variable is not None and any(part.strip().isdecimal() for part in variable.split(","))
        models = {_text(self._nvml.nvmlDeviceGetName(handle)) for handle in handles}
        if by_index and len(models) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            raise MeterError(
                f"CUDA_VISIBLE_DEVICES={variable} is ambiguous among {', '.join(sorted(models))};"
                " set CUDA_DEVICE_ORDER=PCI_BUS_ID"
            )

    def _mig_is_on(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0])
        except self._nvml.NVMLError:
            return False  # GPUs without MIG raise an error

    def _domain(self, index: int, handle: Any) -> Domain:
        name = _text(self._nvml.nvmlDeviceGetName(handle))
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            method, note = "counter", ""
        except self._nvml.NVMLError as error:
            method = "integrated power"
            note = f"{name} has no energy counter ({error}): power samples, integrated"
        return Domain(f"gpu-{index}", "gpu", True, GPU_CEILING_W, method=method, note=note, refresh_ns=REFRESH_NS)

    def sample(self) -> Sample:
        began_ns, _ = self._clock()
        values = tuple(self._value(index) for index in range(len(self._handles)))
        ended_ns, slept_ns = self._clock()
        return Sample(began_ns, ended_ns, slept_ns, values)

    def mirrors(self) -> Mapping[int, Mirror]:
        return {}

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def _value(self, index: int) -> int | Failure:
        domain, handle = self.domains[index], self._handles[index]
        if self._mig[index]:
            return Failure(
                f"MIG is on: NVML counts {domain.name} as a whole, all its instances together; turn it off"
                " (nvidia-smi -mig 0) to measure it",
                fatal=True,
            )
        try:
            if domain.method == "counter":
                return 1000 * int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
            return 1000 * int(self._nvml.nvmlDeviceGetPowerUsage(handle))
        except self._nvml.NVMLError as error:
            return Failure(f"{domain.name}: NVML: {error}")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _import_pynvml() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise NoGpuError("nvidia-ml-py is not installed; pip install 'joulecast[gpu]'") from error
    return pynvml
