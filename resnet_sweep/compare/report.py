"""The report on runs: an HTML page that needs no network, or a training log in Markdown."""

import base64
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from resnet_sweep.compare.collection import find_compared_sweeps, find_runs, read_run
from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.report_data import report_data
from resnet_sweep.compare.training_log import write_log
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import write_atomically

# The order matters, because a script uses the scripts before it.
SCRIPTS = ("report.js", "table.js", "comparison.js", "charts.js", "main.js")
# Characters that HTML or JavaScript could interpret as something other than text.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_report(
    paths: Sequence[str],
    output: Path | None,
    studies: Sequence[Mapping[str, Any]] = (),
    references: Sequence[str] = (),
) -> Path:
    """Write the report on the runs in directories, and return its path.

    Args:
        paths: directories, run directories, or names of logged runs.
        output: an HTML or a Markdown file; None for report.html in the directory.
        studies: studies whose trials are among the runs, see `report_data`.
        references: runs whose curves the page shows, too. If it is empty, the setting `reference`
            of the runs counts.

    Raises:
        ConfigError: there are no runs, the format doesn't suit them, a reference can't be read, or
            the file can't be written.
    """
    named = ", ".join(map(safe_text, paths))
    runs = find_runs(paths)
    if not runs:
        raise ConfigError(
            f"there are no runs in {named}: name a directory that contains runs, for example "
            "outputs or multirun"
        )
    if output is None:
        if len(paths) > 1 or not os.path.isdir(paths[0]):
            raise ConfigError(
                f"a report on {named} has no default file: choose a file with -o, for example "
                "-o report.html"
            )
        output = Path(paths[0]) / "report.html"
    if output.suffix not in (".html", ".md"):
        raise ConfigError(
            f"a report can't be written as {safe_text(str(output))}: choose a file name that ends "
            "in .html or, for a training log, in .md"
        )
    if output.suffix == ".md":
        if references:
            raise ConfigError(
                "--reference adds curves to a page, but a training log has none: leave it out, or "
                "name the run as one of the two runs of the log"
            )
        # Runs are in the order of the paths, or, if there is only one path, in the order of start.
        if len(paths) > 1:
            runs = [run for path in paths for run in find_runs([path])]
        else:
            runs.sort(key=lambda run: (isinstance(run, LoadedRun) and run.started) or 0.0)
        text = write_log(runs)
    else:
        title = Path.cwd().name if [*paths] == ["."] else " ".join(paths)
        sweeps = find_compared_sweeps(paths)
        text = render_page(report_data(title, runs, _references(runs, references), studies, sweeps))
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise ConfigError(
            f"{safe_text(str(output))} can't be written ({error.strerror}): choose another file "
            "with -o"
        ) from error
    return output


def _references(runs: Sequence[LoadedRun | BrokenRun], names: Sequence[str]) -> Sequence[LoadedRun]:
    """Return the reference runs of a page, without those that are among its own runs."""
    own = {os.path.realpath(run.directory) for run in runs}
    found = [read_run(name) for name in names]
    if not names:
        loaded = (run for run in runs if isinstance(run, LoadedRun))
        for name in dict.fromkeys(str(run.config.get("reference") or "") for run in loaded):
            # A reference may have been moved since, or may be a metrics.csv alone.
            with contextlib.suppress(ConfigError):
                found.append(read_run(name))
    return [run for run in found if os.path.realpath(run.directory) not in own]


def render_page(data: Mapping[str, Any]) -> str:
    """Return the HTML page, as one file, for the data that `report_data` returns.

    Its content security policy allows no requests, and no scripts but those of the page itself.
    """
    # These imports take a moment, and --help doesn't need them.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), *map(_asset, SCRIPTS)]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(_digest, scripts)),
        # Plotly sets style attributes.
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "connect-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    environment = Environment(
        loader=PackageLoader("resnet_sweep.compare", "page"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    # The values are texts of this package, or JSON that is escaped for a script element.
    return environment.get_template("page.html").render(
        policy=Markup("; ".join(f"{name} {value}" for name, value in policy.items())),
        style=Markup(_asset("page.css")),
        data=Markup(script_json(data)),
        scripts=[Markup(script) for script in scripts],
    )


def script_json(data: Any) -> str:
    """Return data as JSON that is safe in a script element, whatever texts it contains."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def _asset(name: str) -> str:
    return files("resnet_sweep.compare").joinpath("page", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"
