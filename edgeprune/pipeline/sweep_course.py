"""Where a sweep stands: which trial is next, what is known of each, who may go on."""

from dataclasses import replace
from typing import Literal

from edgeprune.errors import InputError
from edgeprune.files import write_atomic
from edgeprune.pipeline.baseline import make_baseline, open_baseline
from edgeprune.pipeline.sweep_crew import Crew, Death
from edgeprune.pipeline.sweep_halving import goes_on, is_rung
from edgeprune.pipeline.sweep_one_trial import Event, Order
from edgeprune.pipeline.sweep_search import Known, Values, propose_values
from edgeprune.pipeline.sweep_share import pull_network, pull_trial, push_network, push_sweep
from edgeprune.pipeline.sweep_trials import Trial, TrialLevel, TrialStore, merge_journal, trial_name, trial_recipe
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.recipe import Recipe
from edgeprune.recipe.space import SweepFile
from edgeprune.storage import Storage


class SweepCourse:
    """The trials of a sweep and what is next.

    Args:
        file: what to try.
        workspace: where things lie.
        reporter: is told of levels and trials.
        store: what is known already, and is to be known.
        storage: a place that all machines share, or None.
        retry_failed: failed trials are run again.
    """

    def __init__(
        self,
        file: SweepFile,
        workspace: Workspace,
        reporter: Reporter,
        store: TrialStore,
        storage: Storage | None,
        *,
        retry_failed: bool,
    ) -> None:
        self._file, self._workspace, self._reporter = file, workspace, reporter
        self._store, self._storage = store, storage
        self._names = [trial_name(file, index) for index in range(file.sweep.count)]
        known = store.load(self._names)
        again = {"failed"} if retry_failed else set()
        self._trials = {trial.name: trial for trial in known}
        self._waiting = [trial.name for trial in known if not trial.has_ended or trial.state in again]

    @property
    def trials(self) -> tuple[Trial, ...]:
        """In the order of their numbers."""
        return tuple(self._trials[name] for name in self._names if name in self._trials)

    @property
    def ended(self) -> int:
        """Trials that need nothing more."""
        return sum(trial.state != "running" for trial in self.trials)

    @property
    def has_more(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting) or self._propose() is not None

    def prepare(self) -> None:
        """Make the unpruned networks that trials share, once, with all of this machine; share what begins."""
        if self._storage is not None:
            push_sweep(self._storage, self._workspace, self._store)
        recipes = self._file.recipes or (self._file.base,)
        for recipe in recipes:
            assert recipe is not None
            folder = self._workspace.baseline_folder(recipe)
            if self._storage is not None:
                pull_network(self._storage, self._workspace, folder)
            if not folder.exists():
                self._reporter.say(f"{folder}: there is no unpruned network yet, training one")
                make_baseline(recipe, self._workspace, self._reporter)
            # Images are decoded and packed before several processes want them.
            open_baseline(recipe, self._workspace, self._reporter)
            if self._storage is not None:
                push_network(self._storage, self._workspace, folder)

    def start_trials(self, crew: Crew) -> bool:
        """Fill the crew; False when there is nothing left to start."""
        started = False
        while crew.busy < crew.room and (trial := self._next()) is not None:
            self._keep(replace(trial, state="running", reason=""))
            try:
                recipe = self._recipe(trial)
            except InputError as error:
                self._end(replace(trial, state="failed", reason=error.problem))
                continue
            self._store.save_recipe(recipe)
            crew.begin(self._order(recipe))
            started = True
        return started

    def handle(self, crew: Crew, name: str, event: Event | Death) -> None:
        """Take in what happened to a trial."""
        trial = self._trials[name]
        if isinstance(event, Death):
            self._bury(trial, event)
        elif event.kind == "level":
            assert event.level is not None
            if event.level in trial.levels[:-1]:
                # A trial that is run again tells of what it finds first: there it was judged, and went on.
                self._keep(replace(trial, worker=event.worker))
                crew.answer(name, go_on=True)
                return
            levels = (*(known for known in trial.levels if known.target < event.level.target), event.level)
            self._keep(replace(trial, levels=levels, worker=event.worker))
            self._say(f"{name}: {_describe(event.level)}")
            crew.answer(name, go_on=self._goes_on(self._trials[name]))
        else:
            if event.journal:
                write_atomic(self._store.journal(name), event.journal)
            merge_journal(self._workspace.journal, self._store.journal(name))
            if self._storage is not None:
                pull_trial(self._storage, self._workspace, name)
            ended = replace(trial, state=event.state, reason=event.reason, run=event.run or trial.run)
            self._end(replace(ended, levels=event.levels, worker="") if event.state == "finished" else ended)

    def _next(self) -> Trial | None:
        if self._waiting:
            trial = self._trials[self._waiting.pop(0)]
            return replace(trial, deaths=0) if trial.state != "running" else trial
        return self._propose()

    def _propose(self) -> Trial | None:
        name = next((name for name in self._names if name not in self._trials), None)
        if name is None:
            return None
        values: Values | None = {}
        if not self._file.recipes:
            known = [self._known(trial) for trial in self.trials]
            values = propose_values(self._file.sweep, self._names.index(name), known)
        return Trial(name=name, values=values) if values is not None else None

    def _recipe(self, trial: Trial) -> Recipe:
        return trial_recipe(self._file, self._names.index(trial.name), trial.values)

    def _known(self, trial: Trial) -> Known:
        states: dict[str, Literal["done", "poor", "running", "failed"]]
        states = {"finished": "done", "stopped": "poor", "running": "running"}
        state = states.get(trial.state, "failed")
        if not trial.levels:
            return Known(values=trial.values, state="running" if state == "running" else "failed")
        last = trial.levels[-1]
        cost = last.cost(self._file.sweep.objective.cost)
        return Known(values=trial.values, state=state, accuracy=last.val.value, cost=cost)

    def _order(self, recipe: Recipe) -> Order:
        return Order(
            recipe=recipe,
            sweep=self._file.sweep.name,
            root=str(self._workspace.root.resolve()),
            mark=self._store.mark.read_text(encoding="utf-8"),
            storage=self._storage.url if self._storage is not None else "",
        )

    def _goes_on(self, trial: Trial) -> bool:
        rule, count = self._file.sweep.early_stopping, len(trial.levels)
        if rule is None or not is_rung(count, first_level=rule.first_level, reduction=rule.reduction):
            return True
        last = trial.levels[-1]
        others = [
            other.levels[count - 1].val.value
            for other in self.trials
            if other.name != trial.name and len(other.levels) >= count and other.levels[count - 1].target == last.target
        ]
        return goes_on(last.val.value, others, reduction=rule.reduction)

    def _bury(self, trial: Trial, death: Death) -> None:
        trial = replace(trial, deaths=trial.deaths + 1)
        retries = self._file.sweep.retries
        if trial.deaths > retries:
            self._end(replace(trial, state="lost", reason=f"Its worker died {trial.deaths} times: {death.reason}"))
            return
        self._say(f"{trial.name}: its worker died ({trial.worker or 'before the first level'}), trying again")
        self._keep(trial)
        self._waiting.insert(0, trial.name)

    def _end(self, trial: Trial) -> None:
        self._keep(trial)
        last = f" after {_describe(trial.levels[-1])}" if trial.levels else ""
        self._say(f"{trial.name}: {trial.state}{last}{f': {trial.reason}' if trial.reason else ''}")
        if self._storage is not None:
            push_sweep(self._storage, self._workspace, self._store, trial=trial)

    def _keep(self, trial: Trial) -> None:
        self._trials[trial.name] = trial
        self._store.save(trial)

    def _say(self, line: str) -> None:
        self._reporter.say(line)


def _describe(level: TrialLevel) -> str:
    return f"{level.level} {level.val.value:.4f} on val, {level.macs:,} MACs"
