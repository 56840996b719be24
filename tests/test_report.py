"""The subcommand `report`: its page, opened in a browser, and the training log."""

import base64
import csv
import io
import json
import os
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from conftest import ROOT, Command
from PIL import Image
from processes import assert_refused

from resnet_sweep.cli import main
from resnet_sweep.cli.report import report
from resnet_sweep.compare.collection import LOGGED_RUNS
from resnet_sweep.compare.report import script_json, write_report
from resnet_sweep.runs.annotations import annotate
from resnet_sweep.runs.metrics import read_metrics, write_metrics
from resnet_sweep.runs.record import Record

PAGE = ROOT / "resnet_sweep" / "compare" / "page"
LOGGED = ("logged_run_1", "logged_run_2")
MALICIOUS = (
    '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>&lt;\u2028'
)


def write_run(directory: Path, accuracies: list[float], **changes: object) -> Record:
    """Write a finished run with these validation accuracies, one per epoch."""
    values = dict(changes)
    lr, seed = values.pop("lr", 0.1), values.pop("seed", 0)
    rows = [
        {
            "epoch": epoch,
            "lr": lr,
            "train_loss": 4 / epoch,
            "train_acc": accuracy + 1.5,
            "val_loss": 4.5 / epoch,
            "val_acc": accuracy,
            "seconds": 2.0,
        }
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    best = max(rows, key=lambda row: row["val_acc"])
    record = Record(
        signature=f"{lr}-{seed}",
        state="finished",
        config={
            "seed": seed,
            "model": {"widths": [16, 32], "dropout": 0.0},
            "optim": {"_target_": "torch.optim.SGD", "lr": lr},
            "trainer": {"epochs": len(rows), "threads": 1},
        },
        choices={"model": "resnet8v2", "data": "cifar100", "optim": "sgd"},
        overrides=[f"optim.lr={lr}", f"seed={seed}"],
        parameters=77_850,
        best={name: best[name] for name in ("epoch", "val_acc", "val_loss")},
        final={name: value for name, value in rows[-1].items() if name not in ("lr", "seconds")},
        gap=1.5,
        seconds=2.0 * len(rows),
        started=f"2026-01-0{1 + seed}T10:00:00+00:00",
        device="cpu",
        threads=1,
        precision="float32",
        versions={"torch": "2.7"},
        seed=seed,
    )
    for name, value in values.items():
        setattr(record, name, value)
    directory.mkdir(parents=True)
    record.write(directory)
    write_metrics(directory, rows)
    return record


def write_sweep(directory: Path) -> None:
    """Write runs with three learning rates and two seeds each; the best one has a picture."""
    accuracies = {0.05: (30.0, 34.0), 0.1: (40.0, 47.0), 0.2: (9.5, 8.0)}
    jobs = [(lr, seed) for lr in accuracies for seed in (0, 1)]
    for job, (lr, seed) in enumerate(jobs):
        accuracy = accuracies[lr][seed]
        write_run(directory / str(job), [accuracy / 2, accuracy, accuracy - 1], lr=lr, seed=seed)
    picture = directory / "3" / "evaluation" / "confusion.png"
    picture.parent.mkdir()
    Image.new("RGB", (2400, 1200), "navy").save(picture)


def write_sweep_json(directory: Path, baseline: str, **settings: object) -> None:
    """Write the part of `sweep.json` that the report reads."""
    definition = {"baseline": baseline, "settings": settings}
    (directory / "sweep.json").write_text(json.dumps({"definition": definition, "jobs": []}))


def content_of(page: Path) -> dict:
    """Return the data that a page contains."""
    match = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text())
    return json.loads(match[1])


class Browser(NamedTuple):
    """A browser tab, and the file to which each page is copied before the tab opens it.

    With another tab or file the browser compiles the page's scripts again, which takes seconds.
    """

    tab: Any
    path: Path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright isn't installed: pip install playwright"
    )
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        pytest.skip("Chromium isn't on this machine: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield Browser(chromium.new_page(), tmp_path_factory.mktemp("page") / "report.html")
        chromium.close()


class Page:
    """An open page, with its errors, console messages and requests."""

    def __init__(
        self,
        browser: Browser,
        path: Path,
        size: tuple[int, int] = (1280, 900),
        scheme: str = "light",
    ) -> None:
        self.tab = browser.tab
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.listeners = {
            "console": lambda message: self.messages.append(message.text),
            "pageerror": lambda error: self.messages.append(str(error)),
            "request": lambda request: self.requests.append(request.url),
        }
        self.tab.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        self.tab.emulate_media(color_scheme=scheme)
        for event, listener in self.listeners.items():
            self.tab.on(event, listener)
        shutil.copyfile(path, browser.path)
        self.tab.goto(browser.path.as_uri())

    def run_names(self) -> list[str]:
        """Return the names of the runs in the table, in its order."""
        return self.tab.locator("#table [data-key^='compare']").all_inner_texts()

    def column(self, number: int) -> list[str]:
        """Return the cells of a column of the table, without its headers."""
        return self.tab.locator(f"#table tbody tr > td:nth-child({number})").all_inner_texts()

    def traces(self, chart: str) -> list[dict]:
        """Return the name, points and style of each line in a chart."""
        return self.tab.evaluate(
            "chart => document.getElementById(chart).data.map("
            "({name, x, y, line, fill}) => ({name, x, y, line, fill}))",
            chart,
        )

    def width(self) -> int:
        return self.tab.evaluate("document.documentElement.scrollWidth")

    def counts(self) -> list[int]:
        """Return the numbers in the sentence that says how many runs are shown."""
        return [int(number) for number in re.findall(r"\d+", self.tab.inner_text("#count"))]

    def close(self) -> None:
        for event, listener in self.listeners.items():
            self.tab.remove_listener(event, listener)
        page, *others = [url for url in self.requests if not url.startswith("data:")]
        assert page.startswith("file://") and others == []
        assert self.messages == []


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sweep")
    write_sweep(directory)
    return report([str(directory)], None, LOGGED)


@pytest.fixture
def opened(browser: Browser, sweep_page: Path) -> Iterator[Page]:
    page = Page(browser, sweep_page)
    yield page
    page.close()


class TestTable:
    def test_replicates_are_one_row_with_mean_and_deviation(self, opened: Page) -> None:
        assert opened.run_names() == []
        rows = opened.tab.locator("#table tbody tr")
        assert rows.count() == 3
        mean, spread = statistics.mean([40.0, 47.0]), statistics.stdev([40.0, 47.0])
        assert opened.column(4)[0] == f"{mean:.2f}% ± {spread:.2f}"
        assert re.search(r"\b2 replicates\b", rows.first.inner_text())

    def test_a_row_of_replicates_expands_to_its_runs_and_collapses(self, opened: Page) -> None:
        first = opened.tab.locator("#table [data-key^='expand']").first
        first.click()
        assert opened.run_names() == ["3", "2"]
        assert first.get_attribute("aria-expanded") == "true"
        first.click()
        assert opened.run_names() == []

    def test_a_click_on_a_header_sorts_by_its_column_in_both_directions(self, opened: Page) -> None:
        opened.tab.check("#singles")
        header = opened.tab.locator("#table th", has_text="optim.lr").first
        for direction, order in (
            ("descending", ["0.2", "0.1", "0.05"]),
            ("ascending", ["0.05", "0.1", "0.2"]),
        ):
            header.get_by_role("button").click()
            assert header.get_attribute("aria-sort") == direction
            assert list(dict.fromkeys(opened.column(6))) == order
        assert opened.tab.locator("#table th[aria-sort=ascending]").count() == 1

    def test_runs_are_filtered_by_text_by_comparison_and_by_choice(self, opened: Page) -> None:
        opened.tab.check("#singles")
        opened.tab.fill("[aria-label='filter best val']", ">= 34")
        assert sorted(opened.run_names()) == ["1", "2", "3"]
        opened.tab.select_option("[aria-label='filter seed']", label="1")
        assert sorted(opened.run_names()) == ["1", "3"]
        opened.tab.fill("#search", "47.00 0.1")
        assert opened.run_names() == ["3"]
        assert opened.counts() == [1, 6]
        # The plot of hyperparameters draws the one run that is left, and a break after it.
        lines = [x for trace in opened.traces("parallel") for x in trace["x"]]
        assert lines.count(None) == 1

    def test_tags_and_notes_are_shown_and_filtered(self, browser: Browser, tmp_path: Path) -> None:
        for seed in range(3):
            write_run(tmp_path / str(seed), [10.0 + seed], seed=seed)
        annotate(tmp_path / "1", ["good", "<b>"], note="an <i>odd</i> seed")
        annotate(tmp_path / "2", ["good"])
        page = Page(browser, write_report([str(tmp_path)], None))
        page.tab.check("#singles")
        page.tab.fill("[aria-label='filter tags']", "good")
        assert sorted(page.run_names()) == ["1", "2"]
        page.tab.fill("[aria-label='filter note']", "<i>odd")
        assert page.run_names() == ["1"]
        page.tab.locator("#table [data-key^='open']").click()
        assert "an <i>odd</i> seed" in page.tab.locator("td.details").inner_text()
        page.close()

    def test_details_of_a_run_show_its_config_and_command(self, opened: Page) -> None:
        opened.tab.check("#singles")
        opened.tab.locator("#table [data-key^='open'][aria-label*=' 3']").click()
        details = opened.tab.locator("td.details")
        assert (
            details.locator(".command").inner_text() == "python -m resnet_sweep optim.lr=0.1 seed=1"
        )
        for setting in (
            "model.widths: [16, 32]",
            "optim._target_: torch.optim.SGD",
            "trainer.threads: 1",
        ):
            assert setting in details.locator(".settings").inner_text()

    def test_the_mean_leaves_out_a_failed_replicate(self, browser: Browser, tmp_path: Path) -> None:
        for seed, state in enumerate(["finished", "finished", "failed"]):
            write_run(tmp_path / str(seed), [10.0 + seed], seed=seed, state=state)
        page = Page(browser, report([str(tmp_path)], None))
        assert page.column(4) == [f"10.50% ± {statistics.stdev([10, 11]):.2f}"]
        assert re.search(r"\b2 of 3\b", page.tab.inner_text("#table"))
        # The date is that of the newest replicate, which is the failed one.
        assert page.column(8) == ["2026-01-03 10:00"]
        page.tab.select_option("[aria-label='filter state']", label="failed")
        assert page.column(4) == ["12.00%"]
        page.close()

    def test_filters_compare_with_the_mean_of_replicates(self, opened: Page) -> None:
        field = "[aria-label='filter best val']"
        for filled, count in (("43.5", 2), (">= 43.5", 2), ("> 43.5", 0), ("47", 0), ("< 10", 2)):
            opened.tab.fill(field, filled)
            assert opened.counts() == [count, 6]
        opened.tab.fill(field, "47")
        opened.tab.check("#singles")
        assert opened.run_names() == ["3"]
        opened.tab.uncheck("#singles")
        opened.tab.fill(field, "")
        opened.tab.fill("#search", "43.5")
        assert opened.counts() == [2, 6]

    def test_all_controls_of_the_table_have_different_labels(self, opened: Page) -> None:
        opened.tab.check("#singles")
        labels = opened.tab.evaluate(
            "[...document.querySelectorAll('#table tbody input, #table tbody button')]"
            ".map((control) => control.ariaLabel ?? control.textContent)"
        )
        assert len(set(labels)) == len(labels) == 3 * 2 + 6 * 3
        assert "draw replicates of optim.lr=0.1" in labels


class TestVerdicts:
    def test_a_sweep_with_a_baseline_has_the_table_that_runs_prints(
        self, browser: Browser, call: Command, tmp_path: Path
    ) -> None:
        write_sweep(tmp_path)
        write_sweep_json(tmp_path, "optim.lr == 0.1")
        page = Page(browser, report([str(tmp_path)], tmp_path / "report.html"))
        rows = page.tab.locator("#verdicts tr").all()
        shown = [row.locator("th, td").all_inner_texts() for row in rows]
        page.close()
        printed = call(main, "runs", str(tmp_path), "--baseline", "optim.lr == 0.1").stdout
        for row in shown:
            assert " ".join(filter(None, row)) in " ".join(printed.split())
        assert [row[0] for row in shown] == ["optim.lr", "0.1", "0.05", "0.2"]
        assert shown[1][-1] == "baseline"

    def test_there_is_no_section_without_a_baseline(self, opened: Page) -> None:
        assert not opened.tab.locator("#verdicts").is_visible()

    @pytest.mark.parametrize(
        ("baseline", "settings"),
        [
            ("optim.lr ==", {}),
            ("__import__('os')", {}),
            ("optim.lr == 0.1", {"objective": "beauty"}),
            ("optim.lr == 0.1", {"objective": "distance_to_reference", "reference": "/none"}),
        ],
    )
    def test_a_sweep_with_invalid_settings_is_left_out(
        self, tmp_path: Path, baseline: str, settings: dict
    ) -> None:
        write_sweep(tmp_path)
        write_sweep_json(tmp_path, baseline, **settings)
        assert content_of(report([str(tmp_path)], None))["verdicts"] == []


class TestConfirmation:
    HEADER = "trial,claimed,confirmed,sd,n,difference,low,high,verdict\n"
    CURRENT = "current config,,60.25,0.5,3,,,,baseline\n"

    @staticmethod
    def write_study(directory: Path) -> None:
        write_run(directory / "0", [61.5])
        study = optuna.create_study(storage=f"sqlite:///{directory}/study.db", direction="maximize")
        study.add_trial(optuna.trial.create_trial(value=61.5))

    def test_it_has_the_values_of_the_file(self, browser: Browser, tmp_path: Path) -> None:
        self.write_study(tmp_path)
        best = "0,61.5,60.75,0.25,3,0.5,-0.125,1.125,within noise\n"
        (tmp_path / "confirmation.csv").write_text(self.HEADER + self.CURRENT + best)
        page = Page(browser, report([str(tmp_path)], tmp_path / "report.html"))
        rows = page.tab.locator("#studies tr").all()
        _, current, confirmed = [row.locator("th, td").all_inner_texts() for row in rows]
        page.close()
        assert current == ["current config", "", "60.25 ± 0.5", "", "baseline"]
        assert confirmed == ["0", "61.5", "60.75 ± 0.25", "0.5 [-0.125, 1.125]", "within noise"]

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(None, id="missing"),
            pytest.param(HEADER, id="no rows"),
            pytest.param(HEADER + CURRENT[:20], id="truncated"),
            pytest.param(HEADER + CURRENT.replace("60.25", "many"), id="no number"),
            pytest.param(CURRENT, id="no header"),
            pytest.param("\udcff", id="no text"),
        ],
    )
    def test_a_missing_or_damaged_file_is_left_out(
        self, tmp_path: Path, content: str | None
    ) -> None:
        self.write_study(tmp_path)
        if content is not None:
            (tmp_path / "confirmation.csv").write_bytes(os.fsencode(content))
        (study,) = content_of(report([str(tmp_path)], None))["studies"]
        assert study["confirmation"] == []


class TestComparison:
    def test_a_click_on_two_runs_compares_them(self, opened: Page) -> None:
        opened.tab.check("#singles")
        for name in ("0", "3"):
            opened.tab.locator(
                "#table [data-key^='compare']", has_text=re.compile(f"^{name}$")
            ).click()
        differences = opened.tab.inner_text("#differences")
        for row in (
            "optim.lr\t0.05\t0.1",
            "seed\t0\t1",
            "best validation accuracy\t30.00%\t47.00%\t+17.00\n",
        ):
            assert row in differences
        # Equal settings aren't shown, and neither are the times of the runs.
        assert "trainer.epochs" not in differences and "Environment" not in differences
        assert opened.tab.locator("tr.compared").count() == 2

    def test_a_comparison_shows_states_and_notes(self, browser: Browser, tmp_path: Path) -> None:
        write_run(tmp_path / "a", [10.0], notes=["resumed once", "slow"])
        write_run(tmp_path / "b", [10.0], seed=1, state="failed", reason="no space is left")
        page = Page(browser, report([str(tmp_path)], None))
        for menu, name in (("#one", "a"), ("#other", "b")):
            option = page.tab.locator(f"{menu} option", has_text=re.compile(f"^{name}"))
            page.tab.select_option(menu, option.get_attribute("value"))
        differences = page.tab.inner_text("#differences")
        assert re.search(r"state\tfinished\tfailed\b.*\bno space is left", differences)
        assert re.search(r"notes\tresumed once\b.*\bslow", differences)
        page.close()

    def test_numbers_have_four_digits_unless_different_ones_would_look_equal(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        for name, lr in {"a": 0.10815682765921358, "b": 0.10815999}.items():
            write_run(tmp_path / name, [10.0], lr=lr)
        page = Page(browser, report([str(tmp_path)], None))
        assert "optim.lr=0.1082" in page.tab.inner_text("#legend")
        assert "0.10815" not in page.tab.inner_text("#legend")
        for menu, name in (("#one", "a"), ("#other", "b")):
            option = page.tab.locator(f"{menu} option", has_text=re.compile(f"^{name}"))
            page.tab.select_option(menu, option.get_attribute("value"))
        differences = page.tab.inner_text("#differences")
        assert "optim.lr\t0.10815682765921358\t0.10815999" in differences
        page.close()

    def test_a_run_can_be_compared_with_a_logged_run(self, opened: Page) -> None:
        opened.tab.select_option("#one", label="logged_run_2")
        opened.tab.select_option("#other", index=1)
        differences = opened.tab.inner_text("#differences")
        assert "74.86%" in differences and "resnet44v2\tresnet8v2" in differences


class TestReferences:
    def test_no_other_run_is_on_a_page_unless_it_is_asked_for(self, tmp_path: Path) -> None:
        def references(*names: str) -> list[str]:
            runs = content_of(report([str(tmp_path)], None, names))["runs"]
            return [run["name"] for run in runs if run.get("reference")]

        record = write_run(tmp_path / "0", [10.0])
        assert references() == []
        assert references(*LOGGED) == [*LOGGED]
        # A run of the page isn't drawn twice.
        assert references(str(tmp_path / "0"), "logged_run_2") == ["logged_run_2"]
        # The setting names a run, a metrics.csv, or a run that is no longer there.
        for name, found in (("logged_run_1", ["logged_run_1"]), ("gone/metrics.csv", [])):
            record.config["reference"] = name
            record.write(tmp_path / "0")
            assert references() == found
        assert references("logged_run_2") == ["logged_run_2"]

    def test_the_switch_is_hidden_without_references(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "0", [10.0])
        page = Page(browser, report([str(tmp_path)], None))
        assert not page.tab.is_visible("#references")
        assert not any("logged" in trace["name"] for trace in page.traces("accuracy"))
        page.close()


class TestCurves:
    def test_a_chosen_row_is_drawn_with_the_band_of_its_replicates(self, opened: Page) -> None:
        opened.tab.click("#draw-none")
        opened.tab.uncheck("#references")
        assert opened.traces("accuracy") == []
        opened.tab.locator("[data-key^='draw group']").first.check()
        band, validation, training = opened.traces("accuracy")
        # The accuracies of the two runs with the best rate are 40/2, 40, 39 and 47/2, 47, 46.
        assert validation["y"] == pytest.approx([21.75, 43.5, 42.5])
        assert training["y"] == pytest.approx([23.25, 45.0, 44.0])
        assert (validation["line"]["dash"], training["line"]["dash"]) == ("solid", "dash")
        spread = statistics.stdev([40.0, 47.0])
        assert max(band["y"]) == pytest.approx(43.5 + spread)
        opened.tab.select_option("#band", "range")
        assert max(opened.traces("accuracy")[0]["y"]) == 47.0
        losses = [trace["y"] for trace in opened.traces("loss") if not trace["fill"]]
        assert losses == [pytest.approx([4.5, 2.25, 1.5]), pytest.approx([4, 2, 4 / 3], rel=1e-3)]

    def test_a_switch_shows_and_hides_the_reference_runs(self, opened: Page) -> None:
        assert sum("logged" in trace["name"] for trace in opened.traces("accuracy")) == 4
        # They are drawn up to the last epoch of the other runs.
        assert all(
            len(trace["x"]) == 3 for trace in opened.traces("accuracy") if "logged" in trace["name"]
        )
        opened.tab.uncheck("#references")
        assert not any("logged" in trace["name"] for trace in opened.traces("accuracy"))
        opened.tab.check("#references")
        opened.tab.click("#draw-none")
        assert {len(trace["x"]) for trace in opened.traces("accuracy")} == {100}

    def test_a_button_in_the_legend_removes_a_run(self, opened: Page) -> None:
        buttons = opened.tab.locator("#legend button")
        for left in (2, 1, 0):
            following = buttons.nth(1).get_attribute("aria-label") if left else None
            buttons.first.click()
            assert buttons.count() == left
            # The keyboard focus moves to the next button.
            focused = opened.tab.evaluate(
                "(({id, ariaLabel}) => id || ariaLabel)(document.activeElement)"
            )
            assert focused == (following or "legend")

    def test_the_mean_curve_ends_with_the_shortest_replicate(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "0", [10.0, 20.0, 30.0])
        # Two more seeds with the same settings stopped early.
        for seed, accuracies in {1: [12.0, 22.0], 2: [90.0]}.items():
            record = write_run(tmp_path / str(seed), accuracies, seed=seed)
            record.config["trainer"]["epochs"] = 3
            record.write(tmp_path / str(seed))
        (tmp_path / "2" / "metrics.csv").unlink()
        page = Page(browser, report([str(tmp_path)], None))
        band, validation, _ = page.traces("accuracy")
        assert (validation["x"], validation["y"]) == ([1, 2], [11, 21])
        assert band["x"] == [1, 2, 2, 1]
        assert "n=2" in page.tab.inner_text("#legend")
        page.close()

    def test_runs_with_the_same_settings_and_seed_have_different_labels(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        for name, lr in {"a": 0.1, "b": 0.1, "c": 0.2}.items():
            write_run(tmp_path / name, [10.0], lr=lr)
        page = Page(browser, report([str(tmp_path)], None))
        page.tab.click("#draw-none")
        page.tab.check("#singles")
        for name in "abc":
            page.tab.get_by_role("checkbox", name=f"draw {name} ").check()
        labels = page.tab.locator("#legend li > span:nth-child(2)").all_inner_texts()
        assert labels == ["optim.lr=0.1 (a)", "optim.lr=0.1 (b)", "optim.lr=0.2"]
        page.close()

    def test_at_first_only_runs_on_the_same_data_are_drawn(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        for name, accuracy in {"cifar10": 90.0, "cifar100": 60.0}.items():
            write_run(
                tmp_path / name,
                [accuracy],
                choices={"data": name},
                config={"seed": 0, "data": {"classes": accuracy}},
            )
        page = Page(browser, report([str(tmp_path)], None))
        assert page.tab.locator("#legend li").all_inner_texts() == ["data=cifar10\n×"]
        page.close()

    def test_parallel_coordinates_draw_null_below_the_numbers(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        for name, smoothing in {"a": None, "b": 0.1, "c": 0.2}.items():
            config = {"seed": 0, "loss": {"label_smoothing": smoothing}}
            write_run(tmp_path / name, [10.0 + (smoothing or 0)], config=config)
        page = Page(browser, report([str(tmp_path)], None))
        points = [
            (x, y)
            for trace in page.traces("parallel")
            for x, y in zip(trace["x"], trace["y"], strict=True)
            if x is not None
        ]
        heights = sorted(y for x, y in points if x == 0)
        assert len(points) == 6 and None not in heights
        assert heights[0] == 0 < heights[1] < heights[2] == 1
        assert "null" in page.tab.locator("#parallel").text_content()
        page.close()

    def test_each_further_metric_has_a_chart(self, browser: Browser, tmp_path: Path) -> None:
        record = write_run(tmp_path / "run", [10.0, 20.0])
        record.config["metric"] = {"top5": {"_target_": "resnet_sweep.training.metrics.TopK"}}
        record.digests = {}
        record.write(tmp_path / "run")
        rows = read_metrics(tmp_path / "run")
        write_metrics(tmp_path / "run", [{**row, "val_top5": 3 * row["val_acc"]} for row in rows])
        page = Page(browser, write_report([str(tmp_path)], None))
        (trace,) = page.traces("val_top5")
        assert trace["y"] == [30.0, 60.0]
        page.close()


class TestLengths:
    def write_lengths(self, directory: Path, **changes: object) -> None:
        """Write runs of 2, 4 and 3 epochs with two seeds each."""
        for length in (2, 4, 3):
            for seed in (0, 1):
                accuracies = [10.0 * length + seed] * length
                name = "-".join(map(str, (*changes.values(), length, seed)))
                write_run(directory / name, accuracies, seed=seed, **changes)

    def test_a_curve_has_the_mean_and_the_deviation_of_the_seeds_at_each_length(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        self.write_lengths(tmp_path)
        page = Page(browser, report([str(tmp_path)], None))
        (curve,) = page.traces("length-curves")
        assert (curve["x"], curve["y"]) == ([2, 3, 4], [20.5, 30.5, 40.5])
        spread = page.tab.evaluate("document.getElementById('length-curves').data[0].error_y.array")
        assert spread == pytest.approx([statistics.stdev([0, 1])] * 3)
        page.close()

    def test_there_is_a_curve_for_each_variant_with_several_lengths(self, tmp_path: Path) -> None:
        for lr in (0.1, 0.2):
            self.write_lengths(tmp_path, lr=lr)
        write_run(tmp_path / "single", [90.0], lr=0.3)
        write_run(tmp_path / "failed", [90.0] * 5, lr=0.1, state="failed")
        curves = content_of(report([str(tmp_path)], None))["lengths"]
        assert sorted(curve["name"] for curve in curves) == ["optim.lr=0.1", "optim.lr=0.2"]
        assert [curve["epochs"] for curve in curves] == 2 * [[2, 3, 4]]
        assert [curve["n"] for curve in curves] == 2 * [[2, 2, 2]]

    def test_runs_of_one_length_have_no_curve(self, opened: Page) -> None:
        assert not opened.tab.locator("#lengths").is_visible()


class TestPage:
    def test_it_is_dark_by_the_systems_setting_and_by_the_switch(
        self, browser: Browser, sweep_page: Path
    ) -> None:
        page = Page(browser, sweep_page, scheme="dark")
        backgrounds = []
        for pressed in ("true", "false", "true"):
            assert page.tab.get_attribute("#theme", "aria-pressed") == pressed
            backgrounds.append(page.tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.tab.click("#theme")
        assert backgrounds[0] == backgrounds[2] != backgrounds[1]
        page.close()

    def test_all_controls_can_be_used_by_keyboard(self, opened: Page) -> None:
        keys, reached = opened.tab.keyboard, []
        for _ in range(120):
            keys.press("Tab")
            reached.append(
                opened.tab.evaluate(
                    "(({tagName, id, dataset, type}) => [tagName, id || dataset.key || type])"
                    "(document.activeElement)"
                )
            )
            outline = opened.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none" or reached[-1][0] == "BODY"
            if reached[-1][0] == "BODY":
                break
        controls = {name for _, name in reached}
        assert {
            "theme",
            "search",
            "singles",
            "draw-best",
            "one",
            "other",
            "references",
            "band",
        } <= controls
        assert {"expand 0", "expand 1", "expand 2", "draw group 0"} <= controls
        # Use one control of each kind. The focus stays on it, although its row is drawn again.
        opened.tab.focus("[data-key='expand 1']")
        keys.press("Enter")
        assert len(opened.run_names()) == 2
        opened.tab.focus("[data-key^='compare']")
        keys.press("Space")
        assert opened.tab.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
        opened.tab.locator("#table th button").first.focus()
        keys.press("Enter")
        assert opened.tab.locator("#table th").nth(1).get_attribute("aria-sort") == "ascending"
        opened.tab.focus("[data-key^='draw group']")
        before = len(opened.traces("accuracy"))
        keys.press("Space")
        assert len(opened.traces("accuracy")) < before

    def test_it_fits_the_width_of_a_phone(self, browser: Browser, sweep_page: Path) -> None:
        page = Page(browser, sweep_page, size=(360, 740))
        page.tab.check("#singles")
        for number in (0, 1):
            page.tab.locator("#table [data-key^='compare']").nth(number).click()
        page.tab.locator("#table [data-key^='open']").first.click()
        page.tab.locator("#gallery button").first.click()
        assert page.width() <= 360
        page.close()

    def test_it_shows_scripts_in_a_record_as_text_and_does_not_run_them(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        runs = tmp_path / "runs <b>x</b>"
        write_run(runs / "<img src=x onerror=alert(1)>", [10.0, 20.0], lr=0.3, seed=1)
        nested = {
            MALICIOUS: {"{{scripts}}": MALICIOUS},
            "__proto__": 1,
            "constructor": 2,
            "best": 3,
            "model": {"x": f"%{{y}} {MALICIOUS}"},
        }
        write_run(
            runs / "other",
            [10.0],
            state="failed",
            reason=MALICIOUS,
            overrides=[MALICIOUS],
            choices={"data": MALICIOUS, MALICIOUS: MALICIOUS},
            config={"seed": MALICIOUS, **nested},
            notes=[MALICIOUS],
            host=MALICIOUS,
            versions={MALICIOUS: MALICIOUS},
        )
        (runs / MALICIOUS.replace("/", "|")).mkdir()
        (runs / MALICIOUS.replace("/", "|") / "run.json").write_text(MALICIOUS)
        write_sweep_json(runs, f"state == {json.dumps(MALICIOUS)}")
        page = Page(browser, report([str(runs)], tmp_path / "report.html"))
        page.tab.check("#singles")
        for number in range(2):
            page.tab.locator("#table [data-key^='compare']").nth(number).click()
            page.tab.locator("#table [data-key^='open']").nth(number).click()
        page.tab.hover("#parallel")
        text = page.tab.evaluate("document.body.innerText")
        assert "<img src=x onerror=alert(1)>" in text
        assert text.count("window.hacked=1") >= 8
        assert "{{scripts}}" in text
        assert page.tab.evaluate("window.hacked") is None
        assert page.tab.locator("img[src=x]").count() == 0
        # The content security policy has the digests of the page's scripts, and no other runs.
        page.tab.evaluate(
            "document.body.append(Object.assign("
            "document.createElement('script'), {text: 'window.hacked = 2'}))"
        )
        assert page.tab.evaluate("window.hacked") is None
        assert any("Content Security Policy" in message for message in page.messages)
        page.messages.clear()
        page.close()

    def test_it_shows_runs_without_results(self, browser: Browser, tmp_path: Path) -> None:
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "run.json").write_text("[]")
        empty = Page(browser, report([str(tmp_path)], None))
        assert empty.counts() == [0, 0]
        assert re.search(r"\brun\.json\b.*\[\]", empty.tab.inner_text("#damaged"))
        empty.close()
        write_run(tmp_path / "started", [10.0], state="running", best=None, final=None, gap=None)
        (tmp_path / "started" / "metrics.csv").unlink()
        page = Page(browser, report([str(tmp_path)], None, LOGGED))
        assert page.column(3) == ["running (stale)"] and page.column(4) == [""]
        page.tab.select_option("#other", label="logged_run_1")
        page.tab.locator("#table [data-key^='compare']").click()
        assert "69.85%" in page.tab.inner_text("#differences")
        page.close()

    @pytest.mark.slow
    def test_a_page_with_500_runs_of_100_epochs_is_smaller_than_10_mb(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        for number in range(500):
            accuracies = [70 * epoch / (epoch + 20 + number / 7) for epoch in range(1, 101)]
            write_run(
                tmp_path / str(number), accuracies, lr=0.001 * (number // 4 + 1), seed=number % 4
            )
        path = report([str(tmp_path)], None)
        assert path.stat().st_size < 10e6
        assert len(content_of(path)["runs"][0]["curves"]["epoch"]) == 100
        page = Page(browser, path)
        assert page.counts() == [500, 500]
        page.tab.fill("#search", "0.125")
        assert page.counts() == [4, 500]
        page.close()


class TestContent:
    def test_text_is_escaped_for_a_script_element(self) -> None:
        text = script_json({MALICIOUS: [MALICIOUS, 1.5, None]})
        assert not set(text) & set("<>&\u2028\u2029")
        assert json.loads(text) == {MALICIOUS: [MALICIOUS, 1.5, None]}

    def test_long_curves_are_thinned_and_keep_their_ends(self, tmp_path: Path) -> None:
        write_run(tmp_path / "long", [float(epoch % 90) for epoch in range(1, 2001)])
        epochs = content_of(report([str(tmp_path)], None))["runs"][0]["curves"]["epoch"]
        # The page has the first epoch and 400 multiples of five.
        assert len(epochs) == 401 and epochs[0] == 1 and epochs[-1] == 2000

    def test_runs_are_thinned_to_the_same_epochs(self, tmp_path: Path) -> None:
        for seed, length in enumerate((800, 801)):
            write_run(tmp_path / str(seed), [float(e % 90) for e in range(length)], seed=seed)
        runs = content_of(report([str(tmp_path)], None))["runs"][:2]
        shorter, longer = sorted((set(run["curves"]["epoch"]) for run in runs), key=max)
        assert longer ^ shorter <= {800, 801} and len(shorter) < 420

    def test_the_choice_of_a_group_is_kept_when_a_setting_has_the_same_name(
        self, tmp_path: Path
    ) -> None:
        for seed, order in enumerate((["crop", "flip"], ["flip", "crop"])):
            config = {"augmentation": {name: {"p": 0.5} for name in order}}
            write_run(
                tmp_path / str(seed), [10.0], config=config, choices={"augmentation": "light"}
            )
        content = content_of(report([str(tmp_path)], None))
        (varied,) = content["varied"]
        assert varied["part"] == "settings"
        assert content["common"]["choices"] == {"augmentation": "light"}

    def test_pictures_are_encoded_again_and_made_smaller(self, sweep_page: Path) -> None:
        content = content_of(sweep_page)
        (picture,) = content["figures"]
        assert content["runs"][content["figures_of"]]["name"] == "3"
        kind, _, data = picture["data"].partition(",")
        assert kind == "data:image/png;base64"
        embedded = Image.open(io.BytesIO(base64.b64decode(data)))
        assert embedded.format == "PNG" and max(embedded.size) <= 1800

    def test_only_png_pictures_in_the_run_directory_are_embedded(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", [10.0])
        secret = tmp_path / "secret.png"
        Image.new("RGB", (8, 8)).save(secret)
        folder = tmp_path / "run" / "evaluation"
        folder.mkdir()
        (folder / "link.png").symlink_to(secret)
        (folder / "page.png").write_text("<svg onload='alert(1)'/>")
        os.mkfifo(folder / "pipe.png")
        Image.new("RGB", (8, 8)).save(folder / "jpeg.png", format="JPEG")
        (folder / "cut.png").write_bytes(secret.read_bytes()[:45])
        (tmp_path / "run" / "features").symlink_to(tmp_path)
        assert content_of(report([str(tmp_path)], None))["figures"] == []

    def test_a_picture_with_too_many_pixels_is_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_run(tmp_path / "run", [10.0])
        folder = tmp_path / "run" / "evaluation"
        folder.mkdir()
        for name, width in {"a": 100, "b": 101, "c": 50}.items():
            Image.new("L", (width, 10)).save(folder / f"{name}.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        pictures = content_of(report([str(tmp_path)], None))["figures"]
        assert [picture["title"] for picture in pictures] == ["a", "c"]

    def test_scripts_of_the_page_do_not_set_html(self) -> None:
        scripts = "".join(path.read_text() for path in PAGE.glob("*.js"))
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts
        )

    def test_the_page_is_in_the_wheel(self) -> None:
        assert re.search(
            r"^resnet_sweep.compare = .*\bpage/\*", (ROOT / "setup.cfg").read_text(), re.M
        )


def decimals(row: dict[str, str]) -> dict[str, str]:
    """Round the values of an epoch to the decimals of the training log."""
    digits = {"train_acc": 2, "val_acc": 2, "train_loss": 4}
    return row | {name: f"{float(row[name]):.{count}f}" for name, count in digits.items()}


def tables(markdown: str) -> dict[str, list[list[str]]]:
    """Return the tables of a training log, by their headings; each row is a list of cells."""
    tables: dict[str, list[list[str]]] = {}
    headings = ["", ""]
    for line in markdown.splitlines():
        if mark := re.match(r"(##+) (.*)", line):
            headings[len(mark[1]) - 2 :] = [mark[2]]
        elif line.startswith("|"):
            tables.setdefault(" / ".join(headings), []).append(
                [cell.strip() for cell in line.strip("|").split("|")]
            )
    return tables


class TestTrainingLog:
    def test_the_report_of_the_logged_runs_has_the_tables_of_the_training_log(
        self, call: Command, tmp_path: Path
    ) -> None:
        result = call(main, "report", "logged_run_1", "logged_run_2", "-o", "log.md")
        assert result.returncode == 0, result.stderr
        text = (tmp_path / "log.md").read_text()
        ours = tables(text)
        assert ours["Training Runs Summary"][0] == [
            "Run",
            "Best Val Acc",
            "Final Train Acc",
            "Final Val Acc",
            "Final Loss",
            "Notes",
        ]
        # The notes in the last column were written by the author of the log.
        assert [row[:-1] for row in ours["Training Runs Summary"][2:]] == [
            ["1", "69.85%", "89.57%", "69.68%", "0.3645"],
            ["2", "74.86%", "99.65%", "74.70%", "0.0278"],
        ]
        for run, best in ((1, 98), (2, 99)):
            with (LOGGED_RUNS / f"logged_run_{run}" / "metrics.csv").open(newline="") as file:
                rows = [
                    [row["epoch"], f"{row['train_acc']}%", f"{row['val_acc']}%", row["train_loss"]]
                    for row in map(decimals, csv.DictReader(file))
                ]
            rows[best - 1][2] = f"**{rows[best - 1][2]}**"
            section = f"Training Run {run} - Detailed Results"
            header, _, *epochs = ours[f"{section} / Complete Epoch Data"]
            assert header == ["Epoch", "Train Acc", "Val Acc", "Loss"]
            assert epochs == rows
            header, _, *epochs = ours[f"{section} / Key Epochs"]
            assert header == ["Epoch", "Train Acc", "Val Acc", "Loss", "Notes"]
            chosen = [1, 10, 25, 50, 75, best, 100]
            assert [row[:-1] for row in epochs] == [rows[epoch - 1] for epoch in chosen]
            assert epochs[-2][-1] == "**Best validation**"
        assert ours["Training Analysis / Performance Comparison"][2:] == [
            ["**Best Validation Accuracy**", "69.85%", "74.86%", "**+5.01%**"],
            ["**Final Validation Accuracy**", "69.68%", "74.70%", "**+5.02%**"],
            ["**Final Training Accuracy**", "89.57%", "99.65%", "+10.08%"],
            ["**Final Loss**", "0.3645", "0.0278", "**-92.4%**"],
            ["**Overfitting Gap**", "19.89%", "24.95%", "+5.06%"],
        ]
        assert ours["Quick Reference"][2:] == [
            ["Best Validation Accuracy", "74.86%"],
            ["Best Model Epoch", "99 (Run 2)"],
            ["Final Training Accuracy", "99.65%"],
            ["Overfitting Gap", "24.95%"],
            ["Final Loss", "0.0278"],
        ]
        for line in (
            "- **Overfitting Gap**: 24.95% (Train vs Val accuracy difference)",
            "- **Best Validation Accuracy**: 69.85% (Epoch 98)",
            "  - Stage 4: 128→256 channels, 3 blocks, stride 2",
        ):
            assert line in text

    def test_it_shows_the_differences_of_two_runs(self, call: Command, tmp_path: Path) -> None:
        write_run(tmp_path / "b", [50.0], lr=0.2, notes=["a | b\n# c <img src=x> [d](e)"])
        write_run(tmp_path / "a", [40.0, 30.0], lr=0.1)
        assert call(main, "report", "b", "a", "-o", "log.md").returncode == 0
        text = (tmp_path / "log.md").read_text()
        assert "- **Learning Rate**: 0.2 (Run 1), 0.1 (Run 2)" in text
        assert "| **Best Validation Accuracy** | 50.00% | 40.00% | **-10.00%** |" in text
        assert r"a \| b\\n# c \<img src=x> [d]\(e)" in text
        assert tables(text)["Training Run 2 - Detailed Results / Key Epochs"][2:] == [
            ["1", "41.50%", "**40.00%**", "4.0000", "Initial, **Best validation**"],
            ["2", "31.50%", "30.00%", "2.0000", "Final"],
        ]

    def test_values_have_four_digits(self, call: Command, tmp_path: Path) -> None:
        write_run(tmp_path / "a", [50.0], lr=0.10815682765921358)
        assert call(main, "report", "a", "-o", "log.md").returncode == 0
        assert "- **Learning Rate**: 0.1082\n" in (tmp_path / "log.md").read_text()

    def test_a_log_of_runs_without_some_columns_is_written(
        self, call: Command, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "a", [50.0], state="running", best=None, final=None, gap=None)
        (tmp_path / "a" / "metrics.csv").write_text("epoch,val_acc\n1,50\n2,60\n")
        result = call(main, "report", "a", "-o", "log.md")
        assert (result.returncode, result.stderr) == (0, "")
        summary = tables((tmp_path / "log.md").read_text())["Training Runs Summary"][2]
        assert summary[:5] == ["1", "60.00%", "unknown", "60.00%", "unknown"]

    def test_values_come_from_run_json_where_metrics_csv_is_cut_off(
        self, call: Command, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "run", [10.0 * epoch for epoch in range(1, 9)] + [95.0, 90.0])
        path = tmp_path / "run" / "metrics.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
        assert call(main, "report", "run", "-o", "log.md").returncode == 0
        text = (tmp_path / "log.md").read_text()
        assert re.search(r"^- .*\bmetrics\.csv\b.*\b5\b.*\b10\b", text, re.MULTILINE)
        assert "- **Best Validation Accuracy**: 95.00% (Epoch 9)" in text
        assert "- **Final Validation Accuracy**: 90.00%" in text
        assert tables(text)["Training Runs Summary"][2][1:4] == ["95.00%", "91.50%", "90.00%"]
        ((*_, note),) = tables(text)["Training Run 1 - Detailed Results / Key Epochs"][-1:]
        assert note != "Final" and "**Best validation**" not in text


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "facts"),
        [
            (["nowhere"], ["nowhere", "logged_run_1", "logged_run_2"]),
            (["no_runs"], ["no_runs", "outputs", "multirun"]),
            (["sweep", "-o", "report.pdf"], ["report.pdf", ".html", ".md"]),
            # A training log takes one run or two; the message has the number of runs.
            (["sweep", "-o", "log.md"], ["6"]),
            (["sweep", "logged_run_1", "logged_run_2", "-o", "log.md"], ["8"]),
            (["sweep", "-o", "missing/report.html"], ["missing/report.html", "-o"]),
            (["logged_run_1"], ["logged_run_1", "-o"]),
            (["sweep", "--reference", "logged_run_3"], ["logged_run_3", "logged_run_1"]),
            (["sweep/0", "-o", "log.md", "--reference", "logged_run_1"], ["--reference"]),
            (["broken", "-o", "log.md"], ["broken", "run.json"]),
        ],
    )
    def test_a_report_that_cannot_be_written_is_refused(
        self, call: Command, tmp_path: Path, arguments: list[str], facts: list[str]
    ) -> None:
        (tmp_path / "no_runs").mkdir()
        write_sweep(tmp_path / "sweep")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "run.json").write_text("{")
        before = sorted(tmp_path.rglob("*"))
        result = call(main, "report", *arguments)
        assert_refused(result, *facts)
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_report_is_written_into_the_directory_and_its_path_is_printed(
        self, call: Command, tmp_path: Path
    ) -> None:
        write_sweep(tmp_path / "sweep")
        (tmp_path / "sweep" / "9").mkdir()
        (tmp_path / "sweep" / "9" / "run.json").write_text('{"signature": 1}')
        result = call(main, "report", "sweep")
        assert (result.returncode, result.stdout) == (0, "sweep/report.html\n")
        (damaged,) = content_of(tmp_path / "sweep" / "report.html")["damaged"]
        assert "9" in damaged["name"] and "signature" in damaged["reason"]

    def test_it_does_not_import_torch(self, command: Command, tmp_path: Path) -> None:
        write_sweep(tmp_path / "sweep")
        code = (
            "import sys; from resnet_sweep.cli.report import report; report(['sweep'], None); "
            "assert not {'torch', 'hydra', 'omegaconf', 'matplotlib'} & set(sys.modules)"
        )
        (tmp_path / "check.py").write_text(code)
        # A forked process has torch imported already.
        assert command(module="check", cold=True).returncode == 0
