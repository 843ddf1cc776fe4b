"""Wrong values for every key of every configuration file: each is refused in one line, or stored as it was typed.

A few tries, always the same, are run with the other tests; TOKENSEL_WRONG_VALUES=2000 runs as many, drawn at random.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runners.configuration import compose
from runners.configuration.compose import compose_jobs, read_command
from runners.configuration.errors import USER_ERRORS, one_line
from runners.sweep import CONF
from tokensel.evaluation.sweep.groups import GROUPS, ModelSettings
from tokensel.evaluation.sweep.plan import make_plan
from tokensel.evaluation.sweep.reading import described, read_settings
from tokensel.evaluation.sweep.settings import SweepSettings
from tokensel.evaluation.sweep.work import prepare

TRIES = int(os.environ.get("TOKENSEL_WRONG_VALUES", "0"))
USUAL_TRIES = 30
# What a shell may pass, or a slip of the hand make of a value; text as it is typed on the command line.
TYPED = """
null true false yes no '' [] {} [[full]] [null] {a:1} nan inf -inf 0 -1 1 0.0 -0.5 1.0 5e3 1e-300 1e300 1e999 0x10 1_000
007 25% 0% 9007199254740993 -9223372036854775809 9223372036854775808 2147483648 999999 abc '8' 'true' ../x /dev/null
/proc/self/mem ~ ~/x C:x tiny fps foo [shape] [1,2] [true] ['8'] [8,4] [2.5] [-1] cuda:99 float99 average_tokens:0
flops:2 flops:nan 'é' '🙂'
""".split()  # noqa: SIM905
# What OmegaConf and Hydra take for more than a value.
TYPED += """
${seed} ${nowhere} ${method} ${latency} ${oc.env:HOME} ${oc.env:NOT_SET} ${ ${} ${]} a${seed}b '\\${seed}' ???
choice() choice(1,2) range(0) range(1,5,0) range(1e9) interval(0,1) glob(*) int(3.5) json_str({})
tag(a) 1,2 , a, ' " 'a = a=b : a:b [ ] { } {a:} {:1} {name:fps} {repeats:5} [{a:1}] ٣ １２ ½ 0x10 1e .5 5. nan% 100%
""".split()  # noqa: SIM905
TYPED += ["9" * 5000, "'\u2028'", "25\u00a0%", "\u202ex", "\x1b[31m", "\ud800"]
TYPED += ["a b", "1" + "0" * 40, f"'{'n' * 300}'", "'a\tb'", "'\ud800'", "'a\x00b'", "'line\nbreak'"]
VALUES = st.one_of(
    st.sampled_from(TYPED),
    st.integers().map(str),
    st.floats().map(str),
    st.text("abcXYZ019 _-.:/%$@*?äß", max_size=12).map(lambda text: f"'{text}'"),
    st.lists(st.one_of(st.integers(), st.booleans(), st.none()), max_size=3).map(
        lambda items: "[" + ",".join({None: "null", True: "true", False: "false"}.get(i, str(i)) for i in items) + "]"
    ),
)
# Ways to write a key; all but the first ask for what no command does.
FORMS = ["{}"] * 9 + ["+{}", "++{}", "~{}", "{}.x", "{}[0]", "{}@x", "x.{}", "{}\u200b", "{}\n"]


def keys():
    """(the choice of a file that has the key, the key), for every key of every file of conf/."""
    found = [((), key) for key, *_ in described()]
    for group in GROUPS:
        found.append(((), group))
        for file in sorted((CONF / group).glob("*.yaml")):
            content = OmegaConf.load(file)
            options = [f"{group}.{key}" for key in content.get(group, content) if key not in ("name", "defaults")]
            plain = [str(key) for key in content if group in content and key not in (group, "defaults")]
            found += [((f"{group}={file.stem}",), key) for key in (*options, *plain)]
    found += [((), f"model.{key}") for key in ModelSettings.model_fields]
    return found


def stored(settings, key):
    """The value of a dotted key in checked settings."""
    values = settings.model_dump()
    for part in key.split("."):
        values = values[part]
    return values


def plain(value):
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module", autouse=True)
def composed_once():
    """Every choice of files is composed once, as within one grid: Hydra takes a tenth of a second for each."""
    composer = compose._Composer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_Composer", lambda *_: composer)
        yield


def attempt(choices, key, value, folder):
    """What became of KEY=VALUE: None if it was refused in one line; else the settings that it made.

    A mistake of any other kind raises what the command would show as a traceback.
    """
    try:
        (job,) = compose_jobs(read_command([*choices, f"{key}={value}"]), CONF)
        checked = read_settings(job)
        plan = make_plan([checked])
        if not Path(checked.model.path).is_absolute() and checked.data.name in ("diagrams", "easy_vqa"):
            prepare(plan, folder)
    except USER_ERRORS as error:
        line = one_line(error, CONF)
        assert line.strip()
        assert line.isprintable(), line
        return None
    return job, checked


@settings(
    max_examples=TRIES or USUAL_TRIES,
    derandomize=not TRIES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.sampled_from(keys()), st.sampled_from(FORMS), VALUES)
def test_a_wrong_value_is_refused_in_one_line_or_stored_as_typed(tmp_path_factory, place, form, value):
    choices, key = place
    found = attempt(choices, form.format(key), value, tmp_path_factory.getbasetemp() / "never_made")
    assert found is None or form == "{}"
    if found is None:
        return
    job, checked = found
    typed = OmegaConf.to_container(OmegaConf.create({"value": job}))["value"]
    for part in key.split("."):
        typed = typed[part] if isinstance(typed, dict) else typed
    if key in GROUPS:
        assert value.strip("'\"[]").strip() == (stored(checked, f"{key}.name") if key != "model" else value)
    else:
        kept = stored(checked, key if key in SweepSettings.model_fields or "." in key else f"data.{key}")
        # The two that are stored in another spelling: a folder's name as text, and a home directory in full.
        typed = {"name": str, "output_dir": os.path.expanduser}.get(key, lambda value: value)(typed)
        assert plain(kept) == plain(typed), f"{key}={value} is stored as {kept!r}"
        assert type(kept) is type(typed), f"{key}={value} is stored as {kept!r}"
    assert not (tmp_path_factory.getbasetemp() / "never_made").exists()


def test_every_key_of_every_file_is_tried():
    listed = {key for _, key in keys()}
    assert {"kept", "latency.repeats", "model.trust_remote_code", "method.cut_off_layer", "data.families"} <= listed
    assert {"logger.mode", "path", "image_folder", "method", "data"} <= listed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("model.trust_remote_code=no", "model.trust_remote_code=no: must be true or false"),
        ("model.device=0", "model.device=0: must be auto, cpu, cuda or cuda:INDEX"),
        ("model.revision=foo", "model.revision=foo: must be null"),
        ("method=tome method.iterations=true", "method.iterations=true: must be an integer"),
        (
            "method=tome method.iterations=9223372036854775808",
            "method.iterations=9223372036854775808: must be an integer",
        ),
        ("method=himap method.cut_off_layer=99", "method.cut_off_layer=99: must be at most 8"),
        ("temperature=1e-300", "temperature=1e-300: must be a finite number above 0 that float32 can hold"),
        ("kept=9007199254740993", "kept=9007199254740993: must be an integer"),
        ("kept=[]", "kept=[]: must be an integer"),
        ("layout=[]", "layout=[]: choose one of compact"),
        ("logger=null", "logger=null: must be one name; choose from none, wandb"),
        ("data=null,diagrams --multirun", "data=null: must be one name; choose from ai2d, chartqa"),
        (
            "logger=[none,wandb]",
            "logger=[none,wandb]: must be one name; choose from none, wandb; for several, write logger=",
        ),
        ("controls=[[full]]", "controls=[[full]]: must be a list of methods"),
        ("data.families=shape", "data.families=shape: must be a list of names or null"),
        ("data=question_file path=5", "data.path=5: must be text"),
        ("logger=wandb logger.mode=foo", "logger.mode=foo: null or one of online, offline, disabled"),
        ("name=true", "name=true: must be text that can name a folder"),
        ("name=5e3", "name=5000.0: must be text that can name a folder"),
        ("name='a\nb'", "name=a\\nb: must be text that can name a folder"),
        ("+model.foo=1", "+model.foo=1: settings are changed only, by KEY=VALUE"),
        ("~temperature", "~temperature: settings are changed only, by KEY=VALUE"),
        ("kept=range(4,1) --multirun", "kept=range(4,1): has no values; give at least one"),
        ("kept=${nowhere}", "kept: Interpolation key 'nowhere' not found"),
        ("method=${]}", "method=${]}: cannot be read (no viable alternative"),
        ("seed=" + "[" * 300 + "]" * 300, f"seed={'[' * 195}...: cannot be read (maximum recursion depth"),
        ("seed=" + "9" * 5000, f"seed={'9' * 195}...: cannot be read (Exceeds the limit"),
        ("seed\n=5", "seed\\n=5: cannot be read as KEY=VALUE"),
        ("kept=range(1e9) --multirun", "--multirun: the grid has more than 10000 settings; give fewer values"),
    ],
)
def test_a_mistake_is_told_by_the_key_as_typed(arguments, told, tmp_path):
    def plan():
        jobs = compose_jobs(read_command(arguments.split(" ")), CONF)
        prepare(make_plan([read_settings(job) for job in jobs]), tmp_path)

    with pytest.raises(USER_ERRORS) as caught:
        plan()
    assert one_line(caught.value, CONF).startswith(told)
    assert list(tmp_path.iterdir()) == []
