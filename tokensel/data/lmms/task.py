"""lmms-eval's task object, with local data and without retries.

lmms-eval repeats whatever fails up to five times, with waits; here the first failure counts.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import datasets
import lmms_eval.api.metrics  # registers the metrics that tasks name  # noqa: F401
from lmms_eval.api.reasoning import parse_reasoning_tags_config
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.filters.transformation import StripThinkingFilter

from tokensel.data.hub import Source, check_reachable, explained
from tokensel.data.lmms.folders import LocalData
from tokensel.errors import TokenselError

# lmms-eval's command line removes these from every answer.
_REASONING = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
# lmms-eval's own seed for the examples of a few-shot prompt.
_FEWSHOT_SEED = 1234
# Kinds of files that `datasets` itself reads: no names of data sets.
_BUILDERS = ("json", "csv", "parquet", "text", "arrow", "pandas", "imagefolder", "webdataset")
# Documents for which a process of their own pays.
_PER_PROCESS = 200
_MAP = datasets.Dataset.map


class Task(ConfigurableTask):
    """A task of lmms-eval. local: its data; None: the data that its configuration names."""

    def __init__(self, config: dict[str, Any], model_name: str, local: LocalData | None) -> None:
        self.local = local
        # The base class looks at document 0, whose picture would be decoded; a broken one is an error of its question.
        self._looks = True
        super().__init__(config=config, model_name=model_name)
        self._looks = False
        self.features = list(self.eval_docs.features)
        self.set_fewshot_seed(_FEWSHOT_SEED)
        self.reasoning_tags = parse_reasoning_tags_config(_REASONING, self.config.reasoning_tags)
        if self.config.auto_strip_thinking and self.reasoning_tags is None:
            for ensemble in self._filters:
                ensemble.filters.insert(0, StripThinkingFilter())

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Loads the documents; those of `dataset_no_image` have no pictures."""
        if self.local is None:
            self._download(dataset_kwargs)
        else:
            self._load(self.local)

    def test_docs(self) -> Any:
        return super().test_docs_no_media() if self._looks else super().test_docs()

    def validation_docs(self) -> Any:
        return super().validation_docs_no_media() if self._looks else super().validation_docs()

    def process_once(self, document: Any, results: list[Any]) -> dict[str, Any]:
        """`process_results`, which otherwise is repeated after a failure."""
        return inspect.unwrap(ConfigurableTask.process_results)(self, document, results)

    @property
    def split(self) -> str:
        """The split whose documents are asked."""
        return self.config.test_split if self.has_test_docs() else self.config.validation_split

    def _load(self, local: LocalData) -> None:
        fewshot = self.config.fewshot_split if self.config.num_fewshot or self.config.fewshot_config else None
        wanted = [split for split in (self.split, fewshot) if split]
        found = local.splits(self.DATASET_NAME, wanted)
        documents = {split: found[split] for split in wanted}
        if self.config.process_docs is not None:
            with _calls_served(self.config.process_docs, local):
                documents = {split: self.config.process_docs(each) for split, each in documents.items()}
        self.dataset = datasets.DatasetDict(documents)
        self.dataset_no_image = self.dataset
        if not self.config.process_results_use_image:
            self.dataset_no_image = datasets.DatasetDict({k: _without_media(each) for k, each in documents.items()})

    def _download(self, dataset_kwargs: dict[str, Any] | None) -> None:
        path = str(self.DATASET_PATH)
        source = Source(path, str(self.split), self.DATASET_NAME, None, "its Parquet files")
        try:
            if path not in _BUILDERS and not os.path.exists(path):
                check_reachable(source, datasets)
            inspect.unwrap(ConfigurableTask.download)(self, dataset_kwargs)
        except TokenselError:
            raise
        except Exception as error:  # network, server, cache and disk raise errors of many classes
            raise explained(source, error) from error


def _without_media(documents: datasets.Dataset) -> datasets.Dataset:
    """The documents without their columns of pictures and sounds, as lmms-eval leaves these out."""
    kinds = (datasets.Image, datasets.Audio)
    media = [
        name
        for name, kind in documents.features.items()
        if isinstance(kind, kinds) or (isinstance(kind, datasets.Sequence) and isinstance(kind.feature, kinds))
    ]
    return documents.remove_columns(media)


@contextmanager
def _calls_served(function: Callable[..., Any], local: LocalData) -> Iterator[None]:
    """Serves the data sets that a task's own code loads, such as GQA's pictures, from the local copy."""
    names = {name: local.load_dataset for name, value in function.__globals__.items() if value is datasets.load_dataset}
    in_place_of = patch.object(datasets, "load_dataset", local.load_dataset)
    with patch.dict(function.__globals__, names), in_place_of, patch.object(datasets.Dataset, "map", _map):
        yield


def _map(documents: datasets.Dataset, *args: Any, num_proc: int | None = None, **options: Any) -> datasets.Dataset:
    """`Dataset.map`, in this process where starting others takes longer than the work."""
    processes = num_proc if num_proc and len(documents) > _PER_PROCESS * num_proc else None
    return _MAP(documents, *args, num_proc=processes, **options)
