"""The report of runs: an HTML page that needs no network, or a training log in Markdown."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from resnet_sweep.compare.collection import LOGGED_RUNS, find_runs, logged_runs
from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.report_data import report_data
from resnet_sweep.compare.training_log import write_log
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import write_atomically

# In this order, because each uses those before it.
SCRIPTS = ("report.js", "table.js", "comparison.js", "charts.js", "main.js")
# Characters of text that HTML or JavaScript could take for something else.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_report(
    paths: Sequence[str], output: Path | None, studies: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write the report of the runs in some directories, and return its path.

    Args:
        paths: directories, run directories, or names of logged runs.
        output: an HTML or a Markdown file; None for report.html in the directory.
        studies: the studies of which runs are trials, see `report_data`.

    Raises:
        ConfigError: there are no runs, or they can't be reported in this form, or the file can't
            be written.
    """
    named = ", ".join(map(shown, paths))
    runs = find_runs(paths)
    if not runs:
        raise ConfigError(
            f"there is no run in {named} or below: name a directory that has some, such as outputs "
            "or multirun"
        )
    if output is None:
        if len(paths) > 1 or not os.path.isdir(paths[0]):
            raise ConfigError(
                f"a report of {named} has no directory of its own: name its file, such as "
                "-o report.html"
            )
        output = Path(paths[0]) / "report.html"
    if output.suffix not in (".html", ".md"):
        raise ConfigError(
            f"a report can't be written as {shown(str(output))}: name a file that ends in .html "
            "or, for a training log, in .md"
        )
    if output.suffix == ".md":
        # In the order in which they were named, or else in which they were started.
        if len(paths) > 1:
            runs = [run for path in paths for run in find_runs([path])]
        else:
            runs.sort(key=lambda run: (isinstance(run, LoadedRun) and run.started) or 0.0)
        text = write_log(runs)
    else:
        own = {os.path.realpath(run.directory) for run in runs}
        logged = [load_run(LOGGED_RUNS / name, name) for name in logged_runs()]
        references = [
            run
            for run in logged
            if isinstance(run, LoadedRun) and os.path.realpath(run.directory) not in own
        ]
        title = Path.cwd().name if [*paths] == ["."] else " ".join(paths)
        text = render_page(report_data(title, runs, references, studies))
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise ConfigError(
            f"{shown(str(output))} can't be written ({error.strerror}): name another file with -o"
        ) from error
    return output


def render_page(data: Mapping[str, Any]) -> str:
    """Return the HTML page, one file, that shows what `report_data` returned.

    Its content security policy lets it load nothing, and run nothing but our scripts.
    """
    # These imports take a moment, which --help doesn't have to wait.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
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
    environment = Environment(
        loader=PackageLoader("resnet_sweep.compare", "page"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    # All of these are our own text, or JSON that is escaped for a script element.
    return environment.get_template("page.html").render(
        policy=Markup("; ".join(f"{name} {value}" for name, value in policy.items())),
        style=Markup(_asset("page.css")),
        data=Markup(embeddable(data)),
        scripts=[Markup(script) for script in scripts],
    )


def embeddable(data: Any) -> str:
    """Return JSON that can be put into a script element, whatever texts are in it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def _asset(name: str) -> str:
    return files("resnet_sweep.compare").joinpath("page", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"
