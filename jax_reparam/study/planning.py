"""A study: families of arms, trained on the same folds and seeds and compared pairwise; planned here, not trained.

A TOML file declares a study (`load`). Its runs follow from the file alone, except for the arm of a tuned family, which
follows from the tuning runs as well (`Plan.choose`). Every run becomes one line of JSON (`Lines`). The random key of a
run is a hash of its seed and fold, so that arms differ in nothing that is drawn.

Neither jax nor TensorFlow is imported; `study.training` trains the runs.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from jax_reparam import schema, system
from jax_reparam.config import PLACES, Recipe, Seed, load_recipe
from jax_reparam.errors import InputError, known, one_line
from jax_reparam.schema import Count
from jax_reparam.study import statistics

Phase = Literal['tuning', 'primary', 'exploratory']
PHASES: tuple[Phase, ...] = get_args(Phase)
Changes = Mapping[str, Any]
Line = Mapping[str, Any]
# What the plan of a study sets itself, or the command line; and runs to start or learn from, which are of one fold.
RESERVED = ('seed', 'data.corpus', 'data.fold', *sorted(PLACES), 'train.teacher')


@dataclasses.dataclass(frozen=True)
class Family(schema.Checked):
    """Arms of one training form, of which tuning chooses one.

    Attributes:
      phase: of the runs of the chosen arm: `primary`, or `exploratory`.
      changes: recipe keys of all arms, `{'hrf.expansion': 0.0}`.
      arms: recipe keys of each arm besides; one arm needs no tuning.
      teacher: a family whose runs on the same fold, by all seeds, teach each run of this one (`train.teacher`).
    """

    phase: Literal['primary', 'exploratory'] = 'primary'
    changes: Changes = dataclasses.field(default_factory=dict)
    arms: tuple[Changes, ...] = dataclasses.field(default=({},))
    teacher: str = ''


@dataclasses.dataclass(frozen=True)
class Tuning(schema.Checked):
    """How one arm of each family is chosen.

    Attributes:
      seeds: every arm is trained with each of these; none of them is a seed of the study.
      folds: and on each of these; empty: all.
      choose: the score on the validation clips by which the best arm is chosen.
    """

    seeds: tuple[Seed, ...]
    folds: tuple[Count, ...] = ()
    choose: statistics.Score = 'uar'


@dataclasses.dataclass(frozen=True)
class Contrast(schema.Checked):
    """A paired difference, `family` less `less`.

    Attributes:
      family: the name of a family.
      less: the name of another.
      phase: `primary` contrasts share one error rate; all others are exploratory.
    """

    family: str
    less: str
    phase: Literal['primary', 'exploratory'] = 'exploratory'


@dataclasses.dataclass(frozen=True)
class Study(schema.Checked):
    """What a study file declares; paths are relative to the file's folder.

    Attributes:
      recipes: names of recipes (`transformer_xs`), or recipe files.
      corpora: names of corpora; every recipe is trained on each.
      families: by name.
      seeds: each arm is trained with these, on every fold.
      folds: empty: all of the protocol.
      changes: recipe keys of all arms of all families.
      tuning: None where every family has one arm.
      contrasts: the pairs to compare.
      endpoint: the score that contrasts are about.
      pilot: the number of first seeds that tell the smallest difference which the study can detect.
      lines: the file of results; '' is the study file with the suffix `.jsonl`.
      baselines: a file of results to stand beside them (`benchmarks/baselines.py`); '' is none.
      diagnostics: a file that says what HRF does to a layer (`benchmarks/diagnostics.py`); '' is none.
    """

    recipes: tuple[str, ...]
    corpora: tuple[str, ...]
    families: Mapping[str, Family]
    seeds: tuple[Seed, ...]
    folds: tuple[Count, ...] = ()
    changes: Changes = dataclasses.field(default_factory=dict)
    tuning: Tuning | None = None
    contrasts: tuple[Contrast, ...] = ()
    endpoint: statistics.Score = 'uar'
    pilot: Count = 2
    lines: str = ''
    baselines: str = ''
    diagnostics: str = ''

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('recipes', 'corpora', 'families', 'seeds'):
            schema.expect(len(getattr(self, name)) > 0, name, 'at least one', getattr(self, name))
        numbers = {name: len(family.arms) for name, family in self.families.items()}
        told = ', '.join(f'{name} {number}' for name, number in numbers.items())
        if len(set(numbers.values())) > 1 or 0 in numbers.values():
            raise ValueError(f'families: expected as many arms in each, found {told}')
        if (self.tuning is None) != (set(numbers.values()) == {1}):
            found = 'none' if self.tuning is None else 'it'
            raise ValueError(f'tuning: expected it where families have several arms, and there only, found {found}')
        for name, family in self.families.items():
            if family.teacher:
                key = f'families.{name}.teacher'
                taught = self.families[known(key, family.teacher, tuple(self.families))].teacher
                schema.expect(not taught, key, 'a family without a teacher', family.teacher)
                schema.expect(self.tuning is None, key, 'none where arms are tuned', family.teacher)
        if self.tuning:
            schema.expect(len(self.tuning.seeds) > 0, 'tuning.seeds', 'at least one', self.tuning.seeds)
            both = sorted(set(self.seeds) & set(self.tuning.seeds))
            schema.expect(not both, 'tuning.seeds', 'seeds that the study does not have', both)
        for number, contrast in enumerate(self.contrasts):
            for key in ('family', 'less'):
                name = known(f'contrasts[{number}].{key}', getattr(contrast, key), tuple(self.families))
                fits = self.families[name].phase == 'primary' or contrast.phase == 'exploratory'
                schema.expect(fits, f'contrasts[{number}].phase', f'exploratory, as {name} is', contrast.phase)

    @property
    def digest(self) -> str:
        """Of all that is declared; comments and the order of keys play no part."""
        return digest(schema.to_json(self))


def digest(content: Any) -> str:
    """The first 16 digits of the SHA-256 of something that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def key(seed: int, fold: int) -> int:
    """The random key of a run: equal in all arms, different in each seed and fold; 31 bits."""
    return int.from_bytes(hashlib.sha256(f'{seed}/{fold}'.encode()).digest()[:4]) >> 1


# A plan asks for the same recipes many times, and a recipe takes some milliseconds to check.
@functools.lru_cache(maxsize=1 << 14)
def _changed(recipe: Recipe, changes: str) -> Recipe:
    return recipe.with_changes(json.loads(changes))


@functools.lru_cache(maxsize=1 << 14)
def _read(recipe: str) -> Recipe:
    """A recipe in JSON; what one of another day did not have has today's default."""
    return Recipe.from_json(json.loads(recipe))


@functools.lru_cache(maxsize=1 << 14)
def _identity(recipe: Recipe) -> str:
    return digest(recipe.as_json())


def placeless(recipe: Recipe) -> Recipe:
    """The recipe without what says where the corpus lies."""
    return recipe.with_changes(dict.fromkeys(PLACES, ''))


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      phase: why it is trained.
      family: its family.
      arm: the recipe keys in which its arm differs from the others of the family.
      seed: of the study.
      fold: of the protocol.
      recipe: whose `seed` is the run's key; without the places of the corpus, and with those of teachers as `place`.
      name: of the recipe's file.
    """

    phase: Phase
    family: str
    arm: Changes
    seed: int
    fold: int
    recipe: Recipe
    name: str

    @property
    def title(self) -> str:
        """What progress calls it."""
        changed = ', '.join(f'{key}={value}' for key, value in self.arm.items())
        return f'{self.phase}: {self.family}{f" ({changed})" if changed else ""}, fold {self.fold}, seed {self.seed}'

    @property
    def place(self) -> str:
        """The folder of its checkpoint, within that of all."""
        corpus = self.recipe.data.corpus.replace('/', '_')
        return f'{self.name}-{corpus}/{self.family}/{self.identity}'

    @property
    def teachers(self) -> frozenset[str]:
        """The identities of the runs that teach it."""
        return frozenset(Path(place).name for place in self.recipe.train.teacher)

    @property
    def identity(self) -> str:
        """A digest of what the run trains: two arms that say the same in other words share their runs."""
        return _identity(self.recipe)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study, and the recipes that it names.

    Attributes:
      study: what the file declares.
      path: that file.
      recipes: by (name of the recipe, corpus), with the changes of all arms.
    """

    study: Study
    path: Path
    recipes: Mapping[tuple[str, str], Recipe]

    @property
    def lines(self) -> Path:
        """The file of results."""
        return self.path.parent / self.study.lines if self.study.lines else self.path.with_suffix('.jsonl')

    @property
    def baselines(self) -> Path | None:
        """The file of the baselines' results."""
        return self.path.parent / self.study.baselines if self.study.baselines else None

    @property
    def diagnostics(self) -> Path | None:
        """The file of the diagnostics."""
        return self.path.parent / self.study.diagnostics if self.study.diagnostics else None

    def run(self, phase: Phase, which: tuple[str, str], family: str, arm: Changes, seed: int, fold: int) -> Run:
        """One run of an arm."""
        told = self.study.families[family]
        changes = {**told.changes, **arm, 'data.fold': str(fold), 'seed': key(seed, fold)}
        if told.teacher:
            [of_teacher] = self.study.families[told.teacher].arms
            runs = [self.run(phase, which, told.teacher, of_teacher, one, fold) for one in self.study.seeds]
            changes['train.teacher'] = [run.place for run in runs]
        return Run(phase, family, arm, seed, fold, _changed(self.recipes[which], json.dumps(changes)), which[0])

    def tuning(self, which: tuple[str, str], folds: Sequence[int]) -> Iterator[Run]:
        """The tuning runs of one recipe and corpus, in the order to train them."""
        if (tuning := self.study.tuning) is None:
            return
        for seed in tuning.seeds:
            for fold in tuning.folds or folds:
                for name, family in self.study.families.items():
                    for arm in family.arms:
                        yield self.run('tuning', which, name, arm, seed, fold)

    def compared(
        self, which: tuple[str, str], speakers: Mapping[int, Sequence[str]], done: Mapping[str, Line]
    ) -> Iterator[Run | None]:
        """The other runs of one recipe and corpus, in the order to train them: seed by seed, all families of a fold.

        Families that have a teacher come last.

        Args:
          which: recipe and corpus.
          speakers: the test speakers of every fold of the protocol.
          done: the lines there are, by the identity of the run.

        Yields:
          A run; None in place of one whose arm cannot be chosen yet.
        """
        folds = self.study.folds or tuple(speakers)
        chosen = {
            (name, fold): self.choose(which, name, speakers[fold], tuple(speakers), done)
            for name in self.study.families
            for fold in folds
        }
        for phase, taught in itertools.product(('primary', 'exploratory'), (False, True)):
            for seed in self.study.seeds:
                for fold in folds:
                    for name, family in self.study.families.items():
                        if family.phase == phase and bool(family.teacher) == taught:
                            arm = chosen[name, fold]
                            yield None if arm is None else self.run(phase, which, name, arm, seed, fold)

    def choose(
        self,
        which: tuple[str, str],
        family: str,
        speakers: Sequence[str],
        folds: Sequence[int],
        done: Mapping[str, Line],
    ) -> Changes | None:
        """The arm of a family for some test speakers: the best on those tuning folds that do not validate on them.

        Every speaker of a corpus validates some fold. A choice over all folds would have seen the labels of every test
        speaker.

        Returns:
          Its keys; None: a tuning run is missing. An arm whose run failed is not chosen.

        Raises:
          InputError: all folds validate on these speakers, or all arms failed.
        """
        arms = self.study.families[family].arms
        if (tuning := self.study.tuning) is None:
            return arms[0]
        scores = []
        for arm in arms:
            runs = [
                self.run('tuning', which, family, arm, seed, fold)
                for seed in tuning.seeds
                for fold in tuning.folds or folds
            ]
            if any(run.identity not in done for run in runs):
                return None
            lines = [done[run.identity] for run in runs]
            lines = [line for line in lines if not set(speakers) & set(line['speakers']['validation'])]
            if not lines:
                names = ', '.join(speakers)
                raise InputError(
                    f'{self.path}: tuning.folds: expected one that does not validate on {names}, found none'
                )
            if all('failed' not in line for line in lines):
                clips = statistics.Clips.of(lines, 'validation')
                scores.append((statistics.better(clips.score(tuning.choose), tuning.choose), arm))
        if not scores:
            raise InputError(f'{self.path}: families.{family}: expected an arm that trains, found that all failed')
        return max(scores, key=lambda scored: scored[0])[1]


def load(path: Path) -> Plan:
    """Reads a study file and its recipes.

    Raises:
      InputError: no such file, or a mistake in it: names the key.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, 'strerror', None) or one_line(error)
        raise InputError(f'{path}: expected a study in TOML, found: {found}') from error
    try:
        study = schema.from_json(Study, tomllib.loads(text))
        changes = [study.changes, *(family.changes for family in study.families.values())]
        changes += [arm for family in study.families.values() for arm in family.arms]
        for name in (name for some in changes for name in some):
            schema.expect(name not in RESERVED, name, 'a key that all runs of a study can share', name)
        recipes = {}
        for name in study.recipes:
            for corpus in study.corpora:
                recipe = placeless(load_recipe(path.parent / name if Path(name).suffix else name, corpus)).with_changes(
                    study.changes
                )
                recipes[Path(name).stem, corpus] = recipe
                for family in study.families.values():
                    for arm in family.arms:
                        recipe.with_changes({**family.changes, **arm})
        pairs = len(study.recipes) * len(study.corpora)
        schema.expect(len(recipes) == pairs, 'recipes, corpora', 'different names', [*study.recipes, *study.corpora])
    except ValueError as error:
        raise InputError(f'{path}: {one_line(error)}') from error
    return Plan(study, path, recipes)


class Lines:
    """A file of one line of JSON per run, which several processes may write at a time.

    A line is written whole, and put on disk before `append` returns. What a process that was killed left of one is
    removed by the next that writes.

    Args:
      path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines.

        Raises:
          InputError: a line is not what a run has written.
        """
        if not self.path.exists():
            return []
        lines = []
        for number, text in enumerate(self.path.read_bytes().split(b'\n')[:-1], 1):
            try:
                line = json.loads(text)
                schema.expect(isinstance(line, dict) and 'phase' in line, 'it', 'an object with a phase', line)
            except ValueError as error:
                found = one_line(error)
                raise InputError(f'{self.path}: line {number}: expected a run in JSON, found {found}') from error
            lines.append(line)
        return lines

    def done(self, device: str | None = None) -> dict[str, Line]:
        """The lines of the runs, by identity; of one kind of device, or of any.

        Raises:
          InputError: as `read`; or a recipe that today's code does not know.
        """
        found: dict[str, Line] = {}
        for number, line in enumerate(self.read(), 1):
            if 'recipe' in line and device in (None, line['device']):
                try:
                    found[_identity(_read(json.dumps(line['recipe'])))] = line
                except ValueError as error:
                    raise InputError(f'{self.path}: line {number}: {one_line(error)}') from error
        return found

    def append(self, line: Line) -> None:
        """Adds a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(line, separators=(',', ':'), allow_nan=False).encode() + b'\n'
        with system.naming(self.path), self.path.open('a+b') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b'\n') + 1)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
