"""How every command shows its help."""

from __future__ import annotations

from typing import Any

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
