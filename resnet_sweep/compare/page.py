"""The report as one HTML file, which opens anywhere and asks nobody for anything."""

import base64
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

# In this order: each uses those before it.
SCRIPTS = ("report.js", "table.js", "comparison.js", "charts.js", "main.js")
# What HTML or JavaScript could read as something else than text.
ESCAPES = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def render(content: Mapping[str, Any]) -> str:
    """The page that shows some content.

    It carries all that it needs and its policy lets it load nothing, and run nothing but our
    scripts, whatever is in the content.

    Args:
        content: as `build_content` gives it.
    """
    # Imported here because it takes a moment that --help needn't wait.
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), *map(_asset, SCRIPTS)]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(_digest, scripts)),
        # Plotly sets styles of single elements.
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "connect-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    parts = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "style": _asset("page.css"),
        "content": embeddable(content),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # In one pass, so that nothing in the content is taken for a place to fill.
    return re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], _asset("page.html"))


def embeddable(content: Any) -> str:
    """JSON that can stand in a script element, whatever texts are in it."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def _asset(name: str) -> str:
    return files("resnet_sweep.compare").joinpath("page", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"
