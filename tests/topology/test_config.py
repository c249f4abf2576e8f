"""The settings: where each comes from, and that a wrong one is one clear line."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.instrument import ConfigError
from topology import config
from topology.app import build
from topology.config import Settings

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problem(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_file_and_environment_there_are_only_defaults() -> None:
    settings = config.load({})
    assert settings == Settings()
    assert settings.data_dir == Path(".local/data")
    assert settings.web_host == "127.0.0.1"


def test_the_environment_wins_over_the_file_and_the_file_over_the_default() -> None:
    Path("tickloom.yaml").write_text("run: file\nweb_port: 7000\nbroker: kafka:9092\ndata:\n")
    settings = config.load({"TICKLOOM_RUN": "env", "TICKLOOM_WEB_HOST": ""})
    assert settings == Settings(run="env", web_port=7000, broker="kafka:9092")


def test_the_file_may_be_named() -> None:
    Path("other.yaml").write_text("schema_registry_url: http://registry:8081/\n")
    assert config.load({"TICKLOOM_CONFIG": "other.yaml"}).schema_registry_url == "http://registry:8081"
    assert "missing.yaml" in problem({"TICKLOOM_CONFIG": "missing.yaml"})


def test_several_brokers_are_a_list() -> None:
    assert config.load({"TICKLOOM_BROKER": "a:9092, b:9093"}).brokers == ["a:9092", "b:9093"]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TICKLOOM_BROKER", "localhost", "host:port"),
        ("TICKLOOM_BROKER", "http://kafka:9092", "host:port"),
        ("TICKLOOM_BROKER", "kafka:0", "host:port"),
        ("TICKLOOM_BROKER", "a:1,,b:2", "host:port"),
        ("TICKLOOM_DATABASE", "localhost/tickloom", "postgresql://"),
        ("TICKLOOM_RUN", "a.b", "letters"),
        ("TICKLOOM_RUN", "ü", "letters"),
        ("TICKLOOM_WEB_PORT", "70000", "between 0 and 65535"),
        ("TICKLOOM_WEB_PORT", "-1", "between 0 and 65535"),
        ("SCHEMA_REGISTRY_URL", "registry:8081", "http://"),
    ],
)
def test_a_wrong_value_names_its_setting_and_what_it_may_be(variable: str, value: str, says: str) -> None:
    text = problem({variable: value})
    assert text.startswith(variable)
    assert says in text


def test_an_unknown_variable_or_key_is_refused_and_the_meant_one_named() -> None:
    assert "did you mean TICKLOOM_BROKER?" in problem({"TICKLOOM_BROKR": "a:1"})
    assert "TICKLOOM_DATABASE" in problem({"TICKLOOM_QQQ": "a:1"})
    Path("tickloom.yaml").write_text("brokers: a:1\n")
    assert "did you mean broker?" in problem({})


@pytest.mark.parametrize("content", ["- run\n", "run: [a]\n", "run: {a: b}\n", "run: 'a\n", "web_port: yes\n"])
def test_a_file_of_another_shape_is_refused(content: str) -> None:
    Path("tickloom.yaml").write_text(content)
    assert "tickloom.yaml" in problem({})


def test_no_message_shows_the_databases_password() -> None:
    assert SECRET not in problem({"TICKLOOM_DATABASE": f"mysql://me:{SECRET}@host/db"})
    assert config.without_password(f"postgresql://me:{SECRET}@host:1/db") == "postgresql://me:***@host:1/db"
    assert config.without_password("postgresql://me@host/db") == "postgresql://me@host/db"


def test_settings_that_are_shown_show_no_password() -> None:
    address = f"http://me:{SECRET}@registry:8081"
    assert SECRET not in repr(config.load({"SCHEMA_REGISTRY_URL": address, "TICKLOOM_KAFKA_PASSWORD": SECRET}))


def test_a_child_process_gets_the_same_settings() -> None:
    settings = Settings(
        broker="a:1,b:2",
        database=f"postgresql://me:{SECRET}@host/db",
        run="x",
        state=Path("/tmp/s"),
        data=Path("/tmp/d"),
        instruments=Path("/tmp/i.yaml"),
        schema_registry_url="https://registry",
        web_host="::1",
        web_port=7000,
    )
    assert config.load(settings.environment()) == settings


def test_what_is_named_is_not_looked_for_in_the_local_stack(tmp_path: Path) -> None:
    settings = Settings(broker="a:1", state=tmp_path)
    assert config.located(settings, database=False) == settings


def test_without_any_server_the_message_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKLOOM_BROKER", raising=False)
    monkeypatch.delenv("TICKLOOM_DATABASE", raising=False)
    with pytest.raises(ConfigError, match=r"no Kafka .* `make up` .* set TICKLOOM_BROKER"):
        config.located(Settings(state=tmp_path))
    with pytest.raises(ConfigError, match=r"no PostgreSQL .* `make up` .* set TICKLOOM_DATABASE"):
        config.located(Settings(broker="a:1", state=tmp_path))


def test_the_web_port_is_another_one_only_where_none_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .* in use.*TICKLOOM_WEB_PORT"):
            config.worker_listener(Settings(web_port=port))
        with pytest.raises(ConfigError, match=rf"port {port} .* in use.*TICKLOOM_SINK_WEB_PORT"):
            config.sink_listener(Settings(sink_web_port=port))
    with config.worker_listener(Settings(web_port=port)) as listener:
        assert listener.getsockname()[1] == port


def test_of_many_that_start_at_once_one_gets_the_usual_web_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        usual = probe.getsockname()[1]
    monkeypatch.setattr(config, "DEFAULT_WEB_PORT", usual)
    count = 32
    together = threading.Barrier(count)

    def listen(_: int) -> socket.socket:
        together.wait()
        return config.worker_listener(Settings())

    with ThreadPoolExecutor(count) as pool:
        listeners = list(pool.map(listen, range(count)))
    ports = {listener.getsockname()[1] for listener in listeners}
    for listener in listeners:
        listener.close()
    assert len(ports) == count
    assert usual in ports


def test_a_host_that_is_not_ours_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="TICKLOOM_WEB_HOST"):
        config.worker_listener(Settings(web_host="192.0.2.1"))


def test_a_commit_that_comes_after_kafka_has_undone_the_transaction_is_refused() -> None:
    with pytest.raises(ConfigError, match="TICKLOOM_COMMIT_SECONDS=6: exactly once a commit is due within 5 s"):
        build(Settings(commit_seconds=6.0))
