"""Sweeps as their users meet them: seen first, gone on with after anything, told truly."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Command
from omegaconf import OmegaConf
from small_sweep import (
    GRID,
    TINY,
    assert_same_runs,
    finish,
    ledger,
    leftovers,
    records,
    results,
    snapshot,
    start,
    wait_for,
    workers,
)

from resnet_sweep.compare.collection import find_runs

SWEEP = ("--multirun", *TINY, "hydra.sweep.dir=sweep")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four jobs that nothing came in the way of."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, *GRID)
    output = finish(process)
    assert process.returncode == 0, output
    return folder / "sweep"


class TestPreview:
    def test_it_lists_the_jobs_and_writes_nothing(self, command: Command, tmp_path: Path) -> None:
        done = command(*GRID, "sweep_mode=preview", "zip=[optim.lr,seed]")
        assert done.returncode == 0, done.stderr
        # A slow machine tells how far it has come before.
        lines = [line for line in done.stdout.splitlines() if "jobs composed" not in line]
        assert [line.split() for line in lines[:3]] == [
            ["job", "state", "best", "optim.lr", "seed", "where"],
            ["0", "waiting", "0.1", "0"],
            ["1", "waiting", "0.05", "1"],
        ]
        assert "2 jobs, which vary in optim.lr, seed" in done.stdout
        assert "optim.lr and seed are paired" in done.stdout
        assert not list(tmp_path.iterdir())

    def test_it_knows_what_is_finished_and_how_long_the_rest_takes(
        self, command: Command, undisturbed: Path
    ) -> None:
        done = command(
            *GRID, f"hydra.sweep.dir={undisturbed}", "optim.lr=0.1,0.05,0.2", "sweep_mode=preview"
        )
        assert done.returncode == 0, done.stderr
        assert "6 jobs" in done.stdout
        assert "4 finished already" in done.stdout
        assert "2 to train" in done.stdout

    def test_duplicates_and_what_a_filter_leaves_out_are_told(self, command: Command) -> None:
        done = command(
            *SWEEP, "optim.lr=0.1,0.10,0.2", "seed=0,1", "sweep_mode=preview",
            "sweep_filter='optim.lr == 0.1 or seed == 0'",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "3 jobs" in done.stdout
        assert "1 combination left out by sweep_filter" in done.stdout
        assert done.stdout.count("trains the same as job") == 2

    def test_every_wrong_job_is_named_and_none_is_trained(
        self, command: Command, tmp_path: Path
    ) -> None:
        done = command(*SWEEP, "optim.lr=0.1,-1", "model=resnet8v2,resnet99", "seed=0,1")
        assert done.returncode == 2
        assert done.stderr.startswith("error: 6 of 8 jobs are wrong, so none was started:")
        assert "optim.lr must be a number above 0, but is -1" in done.stderr
        assert "there is no model=resnet99" in done.stderr
        for seed in (0, 1):
            assert f"optim.lr=-1 model=resnet8v2 seed={seed}" in done.stderr
            assert f"optim.lr=0.1 model=resnet99 seed={seed}" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["replicates=1,2"], "replicates=2 in a job, 1 in others"),
            (
                ["replicates=0"],
                "replicates must be a whole number at least 1 and at most 1000, but is 0",
            ),
            (["sweep_mode=prevew"], "did you mean preview?"),
            (["sweep_filter='optim.lrr > 1'"], "did you mean optim.lr?"),
            (["sweep_filter='optim.lr > 1'"], "leaves none of the 2 combinations"),
            (["sweep_filter='import os'"], "can't be read"),
            (["baseline='optim.lr = 1'"], "can't be read"),
            (["baseline='sede == 0'"], "did you mean seed?"),
            (["logger=[]"], "logger"),
            (["objective=distance_to_reference"], "has no reference"),
            (["hydra/launcher=pool", "hydra.launcher.workers=0"], "at least 1, but is 0"),
            (["hydra.sweep.subdir=x"], "would be the directory of two jobs"),
            (["hydra.sweep.subdir=../x"], "leads out of the run directory"),
        ],
    )
    def test_wrong_settings_of_a_sweep_get_one_sentence(
        self, command: Command, tmp_path: Path, words: list[str], sentence: str
    ) -> None:
        done = command(*SWEEP, "seed=0,1", *words)
        assert done.returncode == 2, done.stdout
        assert sentence in done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())


class TestGoingOn:
    def test_a_sweep_that_grows_trains_only_what_is_new(
        self, command: Command, tmp_path: Path
    ) -> None:
        assert command(*SWEEP, "optim.lr=0.1", "seed=0,1").returncode == 0
        before = {name: snapshot(tmp_path / "sweep" / name) for name in "01"}
        done = command(*SWEEP, "optim.lr=0.2,0.1", "seed=0,1")
        assert done.returncode == 0, done.stderr
        assert {name: snapshot(tmp_path / "sweep" / name) for name in "01"} == before
        # Old jobs keep their numbers, new ones come behind.
        lines = ledger(tmp_path / "sweep")
        assert [(line["number"], line["overrides"][-2:]) for line in lines] == [
            (0, ["optim.lr=0.1", "seed=0"]), (1, ["optim.lr=0.1", "seed=1"]),
            (2, ["optim.lr=0.2", "seed=0"]), (3, ["optim.lr=0.2", "seed=1"]),
        ]  # fmt: skip
        assert [(line["number"], line["state"], line["optim.lr"], line["seed"], line["n"])
                for line in results(tmp_path / "sweep")] == [
            ("0", "finished", "0.1", "0", "2"), ("1", "finished", "0.1", "1", "2"),
            ("2", "finished", "0.2", "0", "2"), ("3", "finished", "0.2", "1", "2"),
        ]  # fmt: skip
        # What its own runs say is what is needed to go on.
        (tmp_path / "sweep" / "sweep.json").write_text("{")
        done = command(*SWEEP, "optim.lr=0.2,0.1,0.4", "seed=0,1", "sweep_mode=preview")
        assert "4 finished already" in done.stdout

    def test_a_run_is_not_left_without_its_job(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "mine" / "optim").mkdir(parents=True)
        (tmp_path / "mine" / "optim" / "own.yaml").write_text("defaults: [sgd]\nlr: 0.1\n")
        words = ("--config-dir", "mine", *SWEEP, "optim=own")
        assert command(*words, "seed=0,1").returncode == 0
        before = snapshot(tmp_path / "sweep")
        done = command(*words, "seed=0")
        assert done.returncode == 2
        assert "has runs that this command doesn't ask for: job 1" in done.stderr
        assert "seed: 1 there, 0 here" in done.stderr
        done = command(*words, "seed=0,1", "trainer.epochs=3")
        assert done.returncode == 2
        assert done.stderr.count("trainer.epochs: 2 there, 3 here") == 2
        (tmp_path / "mine" / "optim" / "own.yaml").write_text("defaults: [sgd]\nlr: 0.2\n")
        done = command(*words, "seed=0,1")
        assert done.returncode == 2
        assert "optim.lr: 0.1 there, 0.2 here" in done.stderr
        assert snapshot(tmp_path / "sweep") == before

    def test_what_is_finished_elsewhere_is_reused_unless_told_not_to(
        self, command: Command, tmp_path: Path
    ) -> None:
        assert command(*TINY, "seed=1").returncode == 0
        words = (*SWEEP[:-1], "seed=0,1")
        assert command(*words).returncode == 0
        (first,) = tmp_path.glob("multirun/*/*")
        assert [path.name for path in first.glob("*/")] == ["0"]
        assert [line["reused"] for line in ledger(first)] == [False, True]
        assert (first / ledger(first)[1]["directory"] / "run.json").exists()
        assert [line["state"] for line in results(first)] == ["finished", "finished"]
        # Whoever reads the sweep reads both, and once where the other folder is read as well.
        both = [tmp_path / "multirun", tmp_path / "outputs"]
        assert [len(find_runs(folders)) for folders in ([first], both)] == [2, 2]
        done = command(*words, "sweep_mode=preview")
        assert done.stdout.count("finished (reused)") == 2
        assert "nothing to train" in done.stdout
        done = command(*words, "sweep_mode=preview", "reuse=false")
        assert "2 to train" in done.stdout

    def test_a_reused_run_is_what_the_sweep_calls_it(
        self, command: Command, tmp_path: Path
    ) -> None:
        words = ("model=resnet8v2", "data=digits", "trainer.batch_size=20", *TINY[1:])
        assert command(*words).returncode == 0
        baseline = 'experiment == "logged_run_1"'
        sweep = (
            "--multirun", *words, "experiment=logged_run_1,lr_0.05", f"baseline='{baseline}'",
            "hydra.sweep.dir=sweep",
        )  # fmt: skip
        # Asked for again, the sweep is read from its directory.
        for _ in range(2):
            done = command(*sweep)
            assert done.returncode == 0, done.stderr
            assert "nothing is compared" not in done.stdout
            assert [line["reused"] for line in ledger(tmp_path / "sweep")] == [True, False]
            told = [line["experiment"] for line in results(tmp_path / "sweep")]
            assert told == ["logged_run_1", "lr_0.05"]
        found = {run.choices.get("experiment") for run in find_runs([tmp_path / "sweep"])}
        assert found == {"logged_run_1", "lr_0.05"}
        # Where it lies it is called what it was called there.
        (run,) = find_runs([tmp_path / "outputs"])
        assert "experiment" not in run.choices

    def test_starting_over_trains_all_of_it_again(self, command: Command, tmp_path: Path) -> None:
        assert command(*SWEEP, "seed=0,1").returncode == 0
        metrics = {name: (tmp_path / "sweep" / name / "metrics.csv").stat() for name in "01"}
        done = command(*SWEEP, "seed=0,1", "trainer.resume=false")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("finished: best") == 2
        for name, old in metrics.items():
            assert (tmp_path / "sweep" / name / "metrics.csv").stat().st_mtime_ns > old.st_mtime_ns

    def test_what_words_refer_to_is_resolved_in_each_job(
        self, command: Command, tmp_path: Path
    ) -> None:
        done = command(
            *SWEEP, "optim.lr=0.1,0.05", "optim.weight_decay=${optim.lr}",
            "hydra.sweep.subdir='job ${hydra.job.num} é'",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = records(tmp_path / "sweep")
        assert list(found) == ["job 0 é", "job 1 é"]
        for each in found.values():
            assert each["config"]["optim"]["weight_decay"] == each["config"]["optim"]["lr"]
            # As Hydra writes it, and reads it again.
            assert r"optim.weight_decay=$\{optim.lr\}" in each["overrides"]

    def test_jobs_are_frozen_when_the_sweep_begins(self, tmp_path: Path) -> None:
        own = tmp_path / "mine" / "optim" / "own.yaml"
        own.parent.mkdir(parents=True)
        own.write_text("defaults: [sgd]\nlr: 0.1\n")
        process = start(tmp_path, "--config-dir", "mine", *SWEEP, "optim=own", "seed=0,1,2")
        wait_for(process, tmp_path / "sweep" / "sweep.json")
        own.write_text("defaults: [sgd]\nlr: nonsense\n")
        output = finish(process)
        assert process.returncode == 0, output
        assert [each["config"]["optim"]["lr"] for each in records(tmp_path / "sweep").values()] == [
            0.1, 0.1, 0.1
        ]  # fmt: skip

    def test_a_second_process_on_the_same_sweep_is_refused(self, tmp_path: Path) -> None:
        process = start(tmp_path, *GRID, "trainer.epochs=500")
        wait_for(process, tmp_path / "sweep" / "0" / "run.json")
        second = start(tmp_path, *GRID, "trainer.epochs=500")
        output = finish(second)
        assert second.returncode == 2
        assert f"is in use by process {process.pid}" in output
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output = finish(process)
        assert process.returncode == 75, output
        assert "stopped; 0 of 4 jobs are done. To go on:" in output
        states = [line["state"] for line in ledger(tmp_path / "sweep")]
        assert states == ["interrupted", "waiting", "waiting", "waiting"]

    def test_a_sweep_that_another_process_changed_is_planned_again(self, tmp_path: Path) -> None:
        # While this one composes its many jobs, another comes and goes.
        slow = start(
            tmp_path, *SWEEP, "seed=range(100,550)", "sweep_filter='seed < 102'", "reuse=false"
        )
        process = start(tmp_path, *SWEEP, "seed=5")
        output = finish(process)
        assert process.returncode == 0, output
        before = snapshot(tmp_path / "sweep")
        output = finish(slow)
        assert slow.returncode == 2, output
        assert "was changed by another process" in output
        assert snapshot(tmp_path / "sweep") == before

    @pytest.mark.parametrize("there", ["a file", "a file in the directory"])
    def test_what_is_in_the_way_of_a_job_is_found_before_any_begins(
        self, command: Command, tmp_path: Path, there: str
    ) -> None:
        (tmp_path / "sweep").mkdir()
        if there == "a file":
            (tmp_path / "sweep" / "1").touch()
        else:
            (tmp_path / "sweep" / "1").mkdir()
            (tmp_path / "sweep" / "1" / "letter.txt").touch()
        done = command(*SWEEP, "seed=0,1")
        assert done.returncode == 2
        assert "can't be the directory of a job" in done.stderr
        assert not (tmp_path / "sweep" / "0").exists()

    def test_sigterm_while_jobs_are_composed_leaves_nothing(self, tmp_path: Path) -> None:
        process = start(tmp_path, *SWEEP, "seed=range(0,500)")
        output = ""
        while "jobs composed" not in output:
            output = process.stdout.readline()
            assert output, finish(process)
        process.send_signal(signal.SIGTERM)
        finish(process)
        assert process.returncode == 75
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("launcher", ["basic", "pool"])
    def test_ctrl_c_saves_what_runs_and_the_same_command_goes_on(
        self, tmp_path: Path, launcher: str, undisturbed: Path
    ) -> None:
        words = (*GRID, f"hydra/launcher={launcher}")
        process = start(tmp_path, *words)
        wait_for(process, tmp_path / "sweep" / "0" / "run.json")
        # As a terminal does: to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        output = finish(process)
        assert process.returncode == 130, output
        assert "To go on:" in output
        assert {line["state"] for line in ledger(tmp_path / "sweep")} <= {
            "finished", "interrupted", "waiting"
        }  # fmt: skip
        assert not leftovers(tmp_path / "sweep")
        process = start(tmp_path, *words)
        output = finish(process)
        assert process.returncode == 0, output
        assert_same_runs(tmp_path / "sweep", undisturbed)


class TestFailures:
    def test_a_tenth_of_sixty_jobs_fails_and_the_rest_is_done(
        self, command: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.py").write_text(
            "class Broken:\n"
            "    def __init__(self, fails: bool = False) -> None:\n"
            "        self.fails = fails\n"
            "        self.tried = 0\n"
            "    def __call__(self, images, labels, generator):\n"
            "        # The first batch is one that is tried before anything begins.\n"
            "        self.tried += 1\n"
            "        if self.fails and self.tried > 1:\n"
            "            raise ValueError('this one is broken')\n"
            "        return images, labels\n"
        )
        words = (
            *SWEEP, "trainer.max_steps=3", "+augmentation.mine._target_=mine.Broken",
            "seed=range(0,30)", "optim.lr=0.1,0.2", "+augmentation.mine.fails=false,true",
            "sweep_filter='(augmentation.mine.fails and seed < 3) or "
            "(not augmentation.mine.fails and seed >= 3)'",
        )  # fmt: skip
        done = command(*words, PYTHONPATH=str(tmp_path), RESNET_SWEEP_TRUST="mine")
        assert done.returncode == 1, done.stderr
        lines = results(tmp_path / "sweep")
        states = [line["state"] for line in lines]
        assert {state: states.count(state) for state in set(states)} == {
            "finished": 54, "failed": 6
        }  # fmt: skip
        failed = [line for line in ledger(tmp_path / "sweep") if line["state"] == "failed"]
        assert all("ValueError: this one is broken" in line["reason"] for line in failed)
        for line in failed:
            log = (tmp_path / "sweep" / line["directory"] / "train.log").read_text()
            assert "this one is broken" in log
        *_, repeat = done.stdout.strip().splitlines()
        assert "6 of 60 jobs failed:" in done.stdout
        assert "To run those that failed again:" in done.stdout
        assert repeat.startswith("  python -m resnet_sweep --multirun ")
        assert repeat.endswith("hydra.sweep.dir=sweep")

        before = {line["directory"]: line for line in ledger(tmp_path / "sweep")}
        done = command(
            *words, "sweep_mode=skip_failed", PYTHONPATH=str(tmp_path), RESNET_SWEEP_TRUST="mine"
        )
        assert done.returncode == 1
        assert "6 failed, to be left" in done.stdout
        assert {line["directory"]: line for line in ledger(tmp_path / "sweep")} == before

    def test_what_diverged_is_told_of_beside_the_others(self, command: Command) -> None:
        done = command(*SWEEP, "optim.lr=0.1,1e9")
        assert done.returncode == 1, done.stderr
        table = done.stdout.partition("\n\n")[2].splitlines()
        assert table[0].split()[:2] == ["optim.lr", "n"]
        assert [line.split()[0] for line in table[1:3]] == ["0.1", "1000000000"]
        assert table[2].endswith("diverged")
        assert "1 of 2 jobs diverged:" in done.stdout

    def test_a_worker_that_is_killed_takes_only_its_job_with_it(
        self, tmp_path: Path, undisturbed: Path
    ) -> None:
        words = (*GRID, "hydra/launcher=pool", "hydra.launcher.workers=1")
        process = start(tmp_path, *words)
        wait_for(process, tmp_path / "sweep" / "1" / "run.json")
        (worker,) = workers(process)
        os.kill(worker, signal.SIGKILL)
        output = finish(process)
        assert process.returncode == 1, output
        states = [line["state"] for line in ledger(tmp_path / "sweep")]
        assert states == ["finished", "failed", "finished", "finished"]
        reason = records(tmp_path / "sweep")["1"]["reason"]
        assert reason == "its process was killed by SIGKILL, as when memory runs out"
        assert f"job 1 (optim.lr=0.1 seed=1) failed: {reason}" in output
        process = start(tmp_path, *words)
        output = finish(process)
        assert process.returncode == 0, output
        assert_same_runs(tmp_path / "sweep", undisturbed)
        for number in range(4):
            written = OmegaConf.load(tmp_path / f"sweep/{number}/.hydra/hydra.yaml")
            assert written.hydra.job.num == number

    def test_a_full_disk_is_survived(self, tmp_path: Path, undisturbed: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
            capture_output=True, text=True,
        )  # fmt: skip
        if mounted.returncode:
            pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
        try:
            sweep = disk / "sweep"
            words = (*GRID, f"hydra.sweep.dir={sweep}")
            process = start(tmp_path, *words)
            output = finish(process)
            assert process.returncode == 1, output
            assert "No space left on device" in output
            assert "Traceback" not in output
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            process = start(tmp_path, *words)
            output = finish(process)
            assert process.returncode == 0, output
            assert_same_runs(sweep, undisturbed)
            assert not leftovers(sweep)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_hydras_own_sweeper_gets_results_and_skips_what_is_finished(
    command: Command, tmp_path: Path, undisturbed: Path
) -> None:
    words = (*GRID, "hydra/sweeper=basic")
    for word, sentence in (
        ("sweep_filter='seed == 0'", "needs a sweeper that composes all jobs first"),
        ("sweep_mode=nope", "sweep_mode must be one of"),
    ):
        done = command(*words, word)
        assert done.returncode == 2
        assert sentence in done.stderr
    done = command(*words, "sweep_mode=preview")
    assert done.returncode == 0, done.stderr
    assert "4 jobs, which vary in optim.lr, seed" in done.stdout
    assert not list(tmp_path.iterdir())
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert_same_runs(tmp_path / "sweep", undisturbed)
    assert [line["number"] for line in results(tmp_path / "sweep")] == ["0", "1", "2", "3"]
    before = {name: snapshot(tmp_path / "sweep" / name / "checkpoints") for name in "0123"}
    assert command(*words).returncode == 0
    assert {name: snapshot(tmp_path / "sweep" / name / "checkpoints") for name in "0123"} == before


def test_its_table_compares_variants_with_the_baseline(command: Command, tmp_path: Path) -> None:
    done = command(*GRID, "replicates=2", "seed=0", "baseline='optim.lr == 0.1'")
    assert done.returncode == 0, done.stderr
    assert [each["seed"] for each in records(tmp_path / "sweep").values()] == [0, 1, 0, 1]
    table = done.stdout[done.stdout.index("optim.lr  n") :]
    assert "baseline" in table
    assert "The best run again:" in table
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert content["definition"]["baseline"] == "optim.lr == 0.1"
    best = max(records(tmp_path / "sweep").values(), key=lambda each: each["best"]["val_acc"])
    repeat = table.splitlines()[-1].strip()
    assert f"optim.lr={best['config']['optim']['lr']}" in repeat
    assert "replicates" not in repeat
