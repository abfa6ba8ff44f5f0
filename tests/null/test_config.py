"""Configuration: precedence, refusal, and agreement of the documented file with the code."""

import dataclasses
import itertools
import re
import tomllib
from pathlib import Path

import pytest

from homebox.config import KEYS, SECTIONS, Config, load_config, variable
from homebox.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tester's own configuration out of the tests."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_follow_xdg(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config()
    assert config == Config()
    assert config.state_dir == home / ".local/share/homebox"
    assert config.cache_dir == home / ".cache/homebox"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert config.state_dir == Path("/data/homebox")
    assert config.cache_dir == home / ".cache/homebox"


def test_command_line_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", "[server]\nport = 1\nmax_queue = 5\n[learning]\nalpha = 8\n")
    environ = {"HOMEBOX_SERVER_PORT": "2", "HOMEBOX_MODEL_PATH": "/m"}
    config = load_config(file, environ=environ)
    assert (config.server.port, config.server.max_queue, config.model.path) == (2, 5, "/m")
    assert config.learning.alpha == 8.0 and type(config.learning.alpha) is float
    config = load_config(file, {"server.port": 3, "server.host": None}, environ)
    assert (config.server.port, config.server.host) == (3, "127.0.0.1")


def test_files_are_found_by_variable_and_by_place(home: Path) -> None:
    file = write(home / "x.toml", "[server]\nport = 7\n")
    assert load_config(environ={"HOMEBOX_CONFIG": str(file)}).server.port == 7
    write(home / ".config/homebox/homebox.toml", "[server]\nport = 8\n")
    assert load_config().server.port == 8
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(home / "absent.toml")


def test_only_a_state_named_in_the_file_counts_as_configured(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", '[paths]\nstate = "/raid/box"\n')
    assert load_config(file).state_configured
    assert load_config(file).state_dir == Path("/raid/box")
    assert not load_config(file, {"paths.state": "/elsewhere"}).state_configured
    assert not load_config(file, environ={"HOMEBOX_PATHS_STATE": "/elsewhere"}).state_configured
    assert not load_config().state_configured


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1\n", r"unknown key server\.prot; did you mean server\.port\?"),
        ("[sever]\nport = 1\n", r"unknown key \[sever\]; did you mean \[server\]\?"),
        ("server = 1\n", r"write \[server\]"),
        ('[server]\nport = "1"\n', r"server\.port must be of type int"),
        ("[server]\nport = true\n", r"server\.port must be of type int"),
        ("[server]\nport = 1.0\n", r"server\.port must be of type int"),
        ("[server]\nport = 65536\n", r"server\.port must be from 0 to 65535"),
        ("[learning]\nkl = nan\n", r"learning\.kl must be from"),
        ("[server]\nport = [1]\n", r"server\.port must be of type int"),
        ("[server\n", "not valid TOML"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "a.toml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2


def test_wrong_environment_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean HOMEBOX_SERVER_PORT"):
        load_config(environ={"HOMEBOX_SERVER_PROT": "1"})
    with pytest.raises(ConfigError, match=r"HOMEBOX_SERVER_PORT: server\.port must be of type int"):
        load_config(environ={"HOMEBOX_SERVER_PORT": "many"})
    with pytest.raises(ConfigError, match=r"did you mean server\.port"):
        load_config(overrides={"server.prot": 1})


def test_documented_file_has_every_key_with_its_default_and_a_comment(repository: Path) -> None:
    path = repository / "configs" / "homebox.toml"
    document = tomllib.loads(path.read_text())
    documented = {
        f"{s}.{name}": value for s, keys in document.items() for name, value in keys.items()
    }
    assert documented == {key: item.default for key, item in KEYS.items()}
    assert [f"{s}.{n}" for s, keys in document.items() for n in keys] == list(KEYS)
    lines = path.read_text().splitlines()
    bare = [
        b for a, b in itertools.pairwise(lines) if re.match(r"\w+ =", b) and not a.startswith("# ")
    ]
    assert bare == []
    assert load_config(path) == Config()


def test_every_key_has_its_own_variable_and_default_in_bounds() -> None:
    assert len({variable(key) for key in KEYS}) == len(KEYS)
    for section, kind in SECTIONS.items():
        for item in dataclasses.fields(kind):
            assert type(item.default) is item.type, f"{section}.{item.name}"
            if "low" in item.metadata:
                assert item.metadata["low"] <= item.default <= item.metadata["high"]
            if "words" in item.metadata:
                assert item.default in item.metadata["words"]


def test_a_word_that_is_none_of_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "homebox.toml"
    path.write_text('[model]\nweights = "q5"\n')
    with pytest.raises(ConfigError, match="one of auto, f32, bf16, q8, q4, not"):
        load_config(path)
    path.write_text('[model]\nweights = "q4"\nactivations = "f32"\n')
    assert load_config(path).model.weights == "q4"
