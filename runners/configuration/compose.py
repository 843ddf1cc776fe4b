"""From the command line to the settings of every job of a grid, by Hydra's compose API.

    command = read_command(["kept=8,16", "method=fps,tome", "--multirun"])
    jobs = compose_jobs(command, CONF)     # four mappings, to be checked by tokensel.evaluation.sweep.reading

All jobs belong to one sweep and share one pass over the data, so Hydra's launchers and sweepers have no part in it. A
file of the group `experiment` may hold a grid, in Hydra's own keys: hydra.mode and hydra.sweeper.params.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import GrammarParseError, MissingMandatoryValue, OmegaConfBaseException

from runners.terminal.output import take_json
from tokensel.errors import TokenselError, as_typed, first_line, meant
from tokensel.evaluation.sweep.groups import GROUPS
from tokensel.evaluation.sweep.settings import SweepSettings

ROOT = "sweep"
# The files of conf/ that a command begins with, and which of Hydra's sweepers proposes their jobs; basic: none does.
SWEEPERS = {ROOT: "basic", "search": "optuna"}
EXPERIMENT = "experiment"
# Files that null names in groups that have one.
_NULL = {"aggregation": "own"}
# Of Hydra's own settings, only this one can be given: more folders to search for configuration files.
ALLOWED = ("hydra.searchpath",)
# Hydra's own files for what its launcher prints and logs, which nobody reads here: a quarter of the time to compose.
_UNREAD = tuple(f"~hydra/{group}" for group in ("job_logging", "hydra_logging", "help", "hydra_help", "output", "env"))
# More than anyone waits for; range(1e9) is a slip of the hand.
MOST_CELLS = 10_000
_FLAGS = ("--multirun", "--help", "--cfg job", "--config-dir DIR")
_ONE_PROCESS = "the whole grid runs in one process; leave this out"


@dataclass(frozen=True)
class Command:
    """A command line, read.

    overrides: KEY=VALUE and the like. show: print the configuration, and run nothing. json: whether to print a line of
    JSON; None: where standard output is no terminal.
    """

    overrides: list[str]
    multirun: bool = False
    help: bool = False
    show: bool = False
    json: bool | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        close = meant(message.rpartition(" ")[2], _FLAGS) if "unrecognized" in message else ""
        raise TokenselError(f"{message}; flags are {', '.join(_FLAGS)}{close}")


def read_command(arguments: Sequence[str]) -> Command:
    """Reads a command line. Flags may stand anywhere among the settings. Raises TokenselError for an unknown flag."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job",))
    parser.add_argument("--config-dir", "-cd")
    found = parser.parse_intermixed_args(list(arguments))
    overrides, json = take_json(found.overrides)
    if found.config_dir is not None:
        folder = os.path.expanduser(found.config_dir)
        if not os.path.isdir(folder):
            raise TokenselError(f"--config-dir {found.config_dir}: no such folder")
        overrides.append(f"hydra.searchpath=[file://{os.path.realpath(folder)}]")
    return Command(overrides, found.multirun, found.help, found.cfg is not None, json)


def compose_jobs(command: Command, conf: Path, root: str = ROOT) -> list[dict[str, Any]]:
    """The configuration of every job, with all references resolved. conf: the folder with sweep.yaml and the groups.
    root: the file of it to begin with, one of SWEEPERS.

    Raises TokenselError or Hydra's own errors, see `runners.configuration.errors`.
    """
    with initialize_config_dir(str(conf), version_base="1.3"), _naming(" ".join(command.overrides)):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        composer = _Composer(root)
        return [_plain(composer.compose(cell)) for cell in _cells(command, parser, composer)]


class _Composer:
    """Composes the jobs of one grid. Hydra takes a tenth of a second for each choice of files, so each choice is
    composed once; jobs that make it differ in the values that are set afterwards, as Hydra sets them."""

    def __init__(self, root: str = ROOT) -> None:
        self.root = root
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def files(self, overrides: Sequence[Override]) -> DictConfig:
        """What the overrides that choose files compose to, with Hydra's own settings under `hydra`."""
        chosen = tuple(_text(each) for each in overrides if not _is_value(each))
        if chosen not in self._composed:
            self._composed[chosen] = _compose(list(chosen), self.root, return_hydra_config=True)
        return self._composed[chosen]

    def compose(self, overrides: Sequence[Override]) -> DictConfig:
        """The configuration of the job with these overrides."""
        config = self.files(overrides).copy()
        with open_dict(config):
            del config["hydra"]
        try:
            for override in filter(_is_value, overrides):
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return _compose(list(map(_text, overrides)), self.root)  # fails likewise, in Hydra's words
        return config


def _is_value(override: Override) -> bool:
    """Whether an override sets a value, rather than choosing a file or changing which keys there are."""
    key = override.key_or_group
    plain = override.type == OverrideType.CHANGE and override.package is None and key not in ALLOWED
    # A mapping is merged into what is there already.
    plain = plain and (override.is_sweep_override() or not isinstance(override.value(), dict))
    return plain and ("." in key or (key in SweepSettings.model_fields and key not in GROUPS))


def _cells(command: Command, parser: OverridesParser, composer: _Composer) -> list[tuple[Override, ...]]:
    """The overrides of every job: the grid's cells, in the order of nested loops over the keys as they were given."""
    given = _parsed(command.overrides, parser)
    for override in given:
        key = override.key_or_group
        if key.partition(".")[0].partition("/")[0] == "hydra" and key not in ALLOWED:
            raise TokenselError(f"{override.input_line}: {_ONE_PROCESS}")
        if override.type != OverrideType.CHANGE:
            raise TokenselError(f"{override.input_line}: settings are changed only, by KEY=VALUE")
    given = _without_default(given)
    base = composer.files([override for override in given if not override.is_sweep_override()])
    allowed = {"hydra/launcher": "basic", "hydra/sweeper": SWEEPERS[composer.root]}
    for group, ours in allowed.items():  # a file of the user's may choose another
        if (chosen := base.hydra.runtime.choices.get(group)) != ours:
            raise TokenselError(f"{group}={chosen}: {_ONE_PROCESS}")
    multirun = command.multirun or str(base.hydra.mode).endswith("MULTIRUN")
    grid = list(given)
    if multirun and composer.root == ROOT:
        # A key on the command line replaces the experiment's axis of that key.
        typed = {override.key_or_group for override in given}
        params = base.hydra.sweeper.get("params") or {}
        lines = [f"{key}={values}" for key, values in params.items() if key not in typed]
        grid = [*_parsed(lines, parser), *given]
    axes = [_values(override, multirun, parser) for override in grid]
    _check_size(prod(map(len, axes)))
    return [tuple(_without_default(cell)) for cell in product(*axes)]


def _without_default(overrides: Sequence[Override]) -> list[Override]:
    """Leaves out experiment=null, which is the default: Hydra takes no null for a file's name."""
    return [override for override in overrides if (override.key_or_group, override.value()) != (EXPERIMENT, None)]


def _check_size(cells: int) -> None:
    if cells > MOST_CELLS:
        raise TokenselError(f"--multirun: the grid has more than {MOST_CELLS} settings; give fewer values")


def _parsed(lines: Sequence[str], parser: OverridesParser) -> list[Override]:
    """The overrides that the lines hold. Their values can be put into a configuration; those of groups are names."""
    found: list[Override] = []
    for line in lines:
        with _naming(line):
            parsed = parser.parse_overrides([line])
            if (key := parsed[0].key_or_group) in _NULL and parsed[0].value() is None:
                parsed = parser.parse_overrides([f"{key}={_NULL[key]}"])
            found += parsed
            if not found[-1].is_sweep_override():
                OmegaConf.create({"value": found[-1].value()})
                _check_name(found[-1])
    return found


def _check_name(override: Override) -> None:
    """Raises TokenselError for a group's value that is no name. A list would merge files, and the last one win."""
    group, value = override.key_or_group, override.value()
    if (
        group not in (*GROUPS, EXPERIMENT)
        or isinstance(value, str | QuotedString)
        or (group, value) == (EXPERIMENT, None)
    ):
        return
    several = f"; for several, write {group}=A,B --multirun" if isinstance(value, list) else ""
    names = ", ".join(GlobalHydra.instance().config_loader().get_group_options(group))
    raise TokenselError(f"{as_typed(_text(override))}: must be one name; choose from {names}{several}")


def _values(override: Override, multirun: bool, parser: OverridesParser) -> list[Override]:
    """The override, once for each of its values; only an axis of the grid has several."""
    if not override.is_sweep_override():
        return [override]
    if not multirun:
        raise TokenselError(f"{override.input_line}: a list of values is a grid; add --multirun")
    if not override.is_discrete_sweep():
        raise TokenselError(f"{override.input_line}: has no list of values; give A,B, choice(...) or range(...)")
    values = islice(override.sweep_string_iterator(), MOST_CELLS + 1)
    lines = [f"{override.get_key_element()}={value}" for value in values]
    if not lines:
        raise TokenselError(f"{override.input_line}: has no values; give at least one")
    _check_size(len(lines))
    return _parsed(lines, parser)


def _compose(overrides: list[str], root: str, **options: Any) -> DictConfig:
    with _naming(" ".join(overrides)):
        return compose(root, [*overrides, *_UNREAD], **options)


def compose_with_hydra(overrides: Sequence[str], root: str) -> DictConfig:
    """One configuration, with Hydra's own settings under `hydra`; Hydra must know the folder already."""
    return _compose(list(overrides), root, return_hydra_config=True)


def is_varied(override: str) -> bool:
    """Whether an override gives several values, or a range of them. Raises as `compose_jobs` does."""
    with _naming(override):
        return OverridesParser.create().parse_overrides([override])[0].is_sweep_override()


@contextmanager
def _naming(overrides: str) -> Iterator[None]:
    """Inside the block, what Hydra and OmegaConf raise for a value that they cannot hold becomes a TokenselError, which
    names the overrides: a number where a file's name belongs, brackets or digits without end."""
    try:
        yield
    except (TypeError, ValueError, RecursionError, GrammarParseError) as error:
        named = isinstance(error, HydraException | OmegaConfBaseException | TokenselError)
        if named and not isinstance(error, GrammarParseError):
            raise
        raise TokenselError(f"{as_typed(overrides)}: cannot be read ({first_line(error)})") from error


def _text(override: Override) -> str:
    return str(override.input_line)


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise TokenselError(f"{error.full_key or error}: missing; give it a value") from error
    except OmegaConfBaseException as error:
        named = f"{error.full_key}: " if error.full_key else ""
        raise TokenselError(f"{named}{str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
