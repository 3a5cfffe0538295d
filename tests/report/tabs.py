"""A page of the report in a browser, and everything on it that the sliders change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.answer.answer import Answer
from joulecast.report.page import render

from .pages import report

# Everything on a page that depends on the sliders, as it is read and as it is kept.
STATE = """() => {
  const texts = (selector) => [...document.querySelectorAll(selector)].map((node) => node.textContent);
  const numbers = (selector, key) => [...document.querySelectorAll(selector)].map((node) => Number(key(node)));
  return {
    texts: ["#headline", "[data-limit]", "#would-fit li", "[data-verdict]", "#familiar li", "[data-setting]",
      "data[data-figure]", "[data-bounds]", "#grids tbody tr"].map(texts),
    states: [...document.querySelectorAll("[data-state]")].map((node) => node.dataset.state),
    own: [...document.querySelectorAll("[aria-current]")].map((node) => node.dataset.region),
    numbers: [
      ...numbers("data", (node) => node.value),
      ...numbers("[data-bounds]", (node) => node.dataset.low),
      ...numbers("[data-bounds]", (node) => node.dataset.high),
    ],
  };
}"""


class Tab:
    """A page of the report, open in the browser; `heard` lists its log messages, `asked` its requests."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        self.page = browser.new_page()
        self.page.emulate_media(color_scheme=scheme)
        self.heard: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.address = path.as_uri()
        self.page.goto(self.address)

    def set(self, **settings: str) -> None:
        """Types the settings as a reader would, the region by its code."""
        for key, value in settings.items():
            if key == "region":
                self.page.select_option("#region", value)
            else:
                self.page.fill(f"#{key}", value)

    def state(self) -> dict[str, Any]:
        return dict(self.page.evaluate(STATE))

    def wider_than(self, width: int) -> list[str]:
        """The elements that reach beyond a window of `width` pixels, the page itself among them."""
        self.page.set_viewport_size({"width": width, "height": 640})
        beyond = self.page.evaluate(
            """(width) => [...document.querySelectorAll("html, main *:not(svg *)")].filter((node) => {
              const box = node.getBoundingClientRect();
              if (node === document.documentElement) return node.scrollWidth !== width;
              return box.width > 1 && (box.right > width + 0.5 || box.left < -0.5);
            }).map((node) => node.outerHTML.slice(0, 80))""",
            width,
        )
        return list(beyond)

    def close(self) -> None:
        self.page.close()
        assert self.heard == []
        assert [url for url in self.asked if not url.startswith("data:")] == [self.address]


def written(folder: Path, answered: Sequence[Answer], name: str = "page", **values: object) -> Path:
    path = folder / f"{name}.html"
    path.write_text(render(report(answered, **values)), encoding="utf-8")
    return path


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal texts; numbers are equal except for the last bits of their floats."""
    assert one["texts"] == other["texts"]
    assert (one["states"], one["own"]) == (other["states"], other["own"])
    assert one["numbers"] == pytest.approx(other["numbers"], rel=1e-12)
