"""What runs a network on a device, by the names that `--software` takes."""

from __future__ import annotations

from ..base.errors import ProfileError
from ..base.suggest import near

SOFTWARE = ("eager", "channels-last", "compiled", "ngc", "vendor-tuned", "tensorflow")
"""PyTorch as installed, with channels-last tensors, or with torch.compile; NVIDIA's containers and examples; MLPerf
submissions; TensorFlow and Keras."""


def check_software(software: str) -> None:
    """Raises ProfileError for software that is not one of `SOFTWARE`."""
    if software not in SOFTWARE:
        raise ProfileError(f"`software` {software!r} is not one of {', '.join(SOFTWARE)}{near(software, SOFTWARE)}")
