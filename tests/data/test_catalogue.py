"""What tables call a data set, and back."""

from tokensel.data import DATASETS, data_label, data_name


def test_a_label_has_the_task_and_leads_back_to_the_name():
    assert data_label("lmms", {"task": "pope", "path": None}) == "lmms:pope"
    assert data_label("pope", {"path": None}) == "pope"
    assert [data_name(data_label(name, {"task": "a"})) for name in DATASETS] == list(DATASETS)
    assert [data_name(name) for name in DATASETS] == list(DATASETS)
