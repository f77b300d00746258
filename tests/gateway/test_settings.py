from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.prompt_templates import read_templates
from gateway.settings import Described, InvalidSetting, Settings, describe, load, mask_password

PLAIN = [
    ("host", "HOST", "0.0.0.0", "::1"),
    ("port", "PORT", "1", "2"),
    ("database_url", "DATABASE_URL", "postgresql://a/b", "postgresql://c/d"),
    ("log_level", "LOG_LEVEL", "debug", "error"),
]


def dot_env(**values: str) -> None:
    Path(".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def described(name: str, given_: dict[str, Any] | None = None) -> Described:
    chosen = given_ or {}
    return next(one for one in describe(load(chosen), chosen) if one.name == name)


def invalid(**given_: Any) -> str:
    """The one line that an operator sees."""
    with pytest.raises(InvalidSetting) as refused:
        load(given_)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def model_folder(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_without_a_word_everything_has_its_default() -> None:
    chosen = load()
    assert (chosen.host, chosen.port, chosen.engine, chosen.model) == ("127.0.0.1", 8000, "vllm", "demo")
    assert chosen.database_url is None
    assert chosen.engine_args == {}
    assert {one.source for one in describe(chosen, {})} == {"default"}
    assert [one.name for one in describe(chosen, {})] == list(Settings.model_fields)
    assert all(one.description for one in describe(chosen, {}))


def test_the_first_of_command_line_environment_file_and_default_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(load().drain_seconds, described("drain_seconds").source)]
    dot_env(GATEWAY_DRAIN_SECONDS="1")
    found.append((load().drain_seconds, described("drain_seconds").source))
    environment(monkeypatch, GATEWAY_DRAIN_SECONDS="2")
    found.append((load().drain_seconds, described("drain_seconds").source))
    chosen = {"drain_seconds": 3.0}
    found.append((load(chosen).drain_seconds, described("drain_seconds", chosen).source))
    assert found == [
        (30.0, "default"),
        (1.0, ".env GATEWAY_DRAIN_SECONDS"),
        (2.0, "environment GATEWAY_DRAIN_SECONDS"),
        (3.0, "command line"),
    ]


@pytest.mark.parametrize(("name", "plain", "one", "other"), PLAIN)
def test_a_plain_name_is_honoured_after_the_one_with_the_prefix(
    monkeypatch: pytest.MonkeyPatch, name: str, plain: str, one: str, other: str
) -> None:
    environment(monkeypatch, **{plain: one})
    assert str(getattr(load(), name)) == one
    assert described(name).source == f"environment {plain}"
    environment(monkeypatch, **{f"GATEWAY_{name.upper()}": other})
    assert str(getattr(load(), name)) == other
    assert described(name).source == f"environment GATEWAY_{name.upper()}"
    assert described(name).variables == [f"GATEWAY_{name.upper()}", plain]
    assert str(getattr(load({name: one}), name)) == one


@pytest.mark.parametrize(("name", "plain", "one", "other"), PLAIN)
def test_a_plain_name_in_the_environment_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, name: str, plain: str, one: str, other: str
) -> None:
    dot_env(**{f"GATEWAY_{name.upper()}": other})
    environment(monkeypatch, **{plain: one})
    assert str(getattr(load(), name)) == one
    assert described(name).source == f"environment {plain}"


@pytest.mark.parametrize(("name", "plain", "one", "other"), PLAIN)
def test_a_plain_name_in_the_file_is_honoured(name: str, plain: str, one: str, other: str) -> None:
    dot_env(**{plain: one})
    assert str(getattr(load(), name)) == one
    assert described(name).source == f".env {plain}"


def test_the_model_is_honoured_under_its_plain_name(
    monkeypatch: pytest.MonkeyPatch, model_folder: str
) -> None:
    environment(monkeypatch, MODEL_PATH=model_folder)
    assert load().model == model_folder
    environment(monkeypatch, GATEWAY_MODEL="demo")
    assert load().model == "demo"


def test_no_other_name_in_the_environment_sets_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, MODEL="theirs", ENGINE="simulated", DATA_DIR="/theirs", GATEWAY_UNKNOWN="1")
    chosen = load()
    assert (chosen.model, chosen.engine) == ("demo", "vllm")
    assert {one.source for one in describe(chosen, {})} == {"default"}


def test_an_empty_value_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, PORT="", GATEWAY_DRAIN_SECONDS="", DATABASE_URL="", GATEWAY_ENGINE_ARGS="")
    chosen = load()
    assert (chosen.port, chosen.drain_seconds, chosen.database_url) == (8000, 30.0, None)
    assert {one.source for one in describe(chosen, {})} == {"default"}
    dot_env(GATEWAY_PORT="1")
    assert (load().port, described("port").source) == (1, ".env GATEWAY_PORT")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("engine", "llama"),
        ("database_url", "mysql://h/d"),
        ("database_url", "postgresql://u:p@[h/d"),
        ("log_level", "loud"),
        ("access_log", "perhaps"),
        ("max_body_bytes", "1"),
        ("drain_seconds", "-1"),
        ("commit_wait_seconds", "0"),
        ("body_timeout_seconds", "0"),
        ("body_timeout_seconds", "inf"),
        ("request_timeout_seconds", "0"),
        ("request_timeout_seconds", "nan"),
        ("sse_keep_alive_seconds", "-1"),
        ("cors_origins", "https://chat.example.com/"),
        ("cors_origins", "https://a.example,b.example"),
        ("cors_origins", "https://*.example.com/x"),
        ("cors_origins", "HTTPS://a.example"),
        ("cors_origins", "[1]"),
        ("cors_origins", "[x]"),
        ("served_model_name", ""),
        ("tool_call_parser", ""),
        ("simulated_ttft_ms", "-1"),
        ("simulated_tokens_per_second", "0"),
        ("engine_args", "[]"),
        ("sampling_defaults", "[]"),
        ("sampling_defaults", '{"temperature": 2.5}'),
        ("sampling_defaults", '{"top_p": 0}'),
        ("sampling_defaults", '{"max_tokens": 5}'),
    ],
)
def test_a_value_that_can_not_be_used_is_named_with_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert invalid(**{name: value}).startswith(f"{name} (command line): ")
    variable = f"GATEWAY_{name.upper()}"
    if value:
        environment(monkeypatch, **{variable: value})
        assert invalid().startswith(f"{name} (environment {variable}): ")
        monkeypatch.delenv(variable)
        dot_env(**{variable: value})
        assert invalid().startswith(f"{name} (.env {variable}): ")


NO_URLS = ["mysql://u:secret@h/d", "postgresql://u:secret@[h/d", "postgresql://u:secret\u2100@h/d"]


@pytest.mark.parametrize("url", NO_URLS)
def test_a_refused_value_is_not_repeated(url: str) -> None:
    assert "secret" not in invalid(database_url=url)


def test_the_url_of_the_database_can_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://me:hunter2@h/d\n")
    environment(monkeypatch, DATABASE_URL_FILE=str(file))
    assert load().database_url == "postgresql://me:hunter2@h/d"
    shown = described("database_url")
    assert (shown.value, shown.source) == ("postgresql://me:***@h/d", "database_url_file")
    assert described("database_url_file").source == "environment DATABASE_URL_FILE"
    assert load({"database_url": "postgresql://a/b"}).database_url == "postgresql://a/b"


@pytest.mark.parametrize("content", [*NO_URLS, "", None])
def test_a_file_without_a_usable_url_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_text(content)
    environment(monkeypatch, DATABASE_URL_FILE=str(file))
    message = invalid()
    assert message.startswith(f"database_url_file (environment DATABASE_URL_FILE): {file}: ")
    assert "secret" not in message


def test_engine_args_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, GATEWAY_ENGINE_ARGS='{"max_model_len": 4096, "swap": {"a": [1.5, null]}}')
    assert load().engine_args == {"max_model_len": 4096, "swap": {"a": [1.5, None]}}
    assert load({"engine_args": {"seed": 1}}).engine_args == {"seed": 1}


def test_sampling_defaults_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, GATEWAY_SAMPLING_DEFAULTS='{"temperature": 0.7, "top_k": 40}')
    assert load().sampling_defaults == {"temperature": 0.7, "top_k": 40}
    assert load({"sampling_defaults": '{"top_p": 0.5}'}).sampling_defaults == {"top_p": 0.5}


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("*", ["*"]),
        ("null", ["null"]),
        ("https://a.example", ["https://a.example"]),
        ("https://a.example, http://localhost:3000 ,", ["https://a.example", "http://localhost:3000"]),
        ('["https://a.example", "vscode-webview://x"]', ["https://a.example", "vscode-webview://x"]),
        ("[]", []),
    ],
)
def test_origins_are_json_or_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, origins: list[str]
) -> None:
    assert load().cors_origins == []
    environment(monkeypatch, GATEWAY_CORS_ORIGINS=value)
    assert load().cors_origins == origins
    assert load({"cors_origins": ["http://b.example"]}).cors_origins == ["http://b.example"]


def test_credentials_need_origins_with_a_name() -> None:
    assert "cors_allow_credentials" in invalid(cors_origins="*", cors_allow_credentials=True)
    assert "cors_allow_credentials" in invalid(cors_origins="http://a.example,*", cors_allow_credentials="1")
    assert load({"cors_origins": "http://a.example", "cors_allow_credentials": True}).cors_allow_credentials


def test_engine_args_that_are_not_json_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, GATEWAY_ENGINE_ARGS="{max_model_len: 4096}")
    assert "engine_args" in invalid()


@pytest.mark.parametrize("name", ["absent", "a file", "an empty folder", "two\nlines", "nul\0"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "an empty folder").mkdir()
    message = invalid(model=str(tmp_path / name))
    assert message.startswith("model")
    assert "config.json" in message


def test_a_models_folder_is_taken_and_the_simulated_engine_needs_none(model_folder: str) -> None:
    assert load({"model": model_folder}).model == model_folder
    assert load({"model": "absent", "engine": "simulated"}).model == "absent"


def test_the_data_directory_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment(monkeypatch, HOME=str(tmp_path))
    assert load({"data_dir": "~/data"}).data_dir == tmp_path / "data"
    assert load({"data_dir": "data"}).data_dir == Path.cwd() / "data"


OWN = "llm_chat: {terse: 'Briefly: {input}'}"


def test_prompt_templates_are_those_that_come_along_and_an_operators(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8-sig")
    chosen = load({"prompt_templates": str(path)})
    assert chosen.prompt_templates == path
    assert read_templates(path).names("llm_chat") == [
        "default",
        "general_chat",
        "py",
        "with_history",
        "terse",
    ]
    assert load().prompt_templates is None
    assert "terse" not in read_templates(None).names("llm_chat")


def test_prompt_templates_from_the_environment_a_relative_path_or_a_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "link.yaml").symlink_to("own.yaml")
    environment(monkeypatch, GATEWAY_PROMPT_TEMPLATES="link.yaml")
    assert load().prompt_templates == tmp_path / "link.yaml"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"llm_chat: {default: '{question}'}", "llm_chat/default: unknown variable {question}"),
        (b'completion: {"two\\nlines": "{% x %}"}', "completion/two lines: holds {%"),
        (b"llm_chat: {", "not valid YAML: line 1"),
        (b"\xff\xfea", "is not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "is larger than 1048576 bytes"),
    ],
)
def test_prompt_templates_that_can_not_be_used_are_named_with_their_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, named: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    assert invalid(prompt_templates=path).startswith(f"prompt_templates (command line): {path}: {named}")
    environment(monkeypatch, GATEWAY_PROMPT_TEMPLATES=str(path))
    assert invalid().startswith("prompt_templates (environment GATEWAY_PROMPT_TEMPLATES): ")


def test_prompt_templates_of_the_largest_size_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(OWN.encode() + b"\n".ljust(1024 * 1024 - len(OWN), b"#"))
    assert load({"prompt_templates": path}).prompt_templates == path


@pytest.mark.parametrize("name", ["absent", "a folder", "a pipe", "absent/below", "two\nlines", "nul\0"])
def test_prompt_templates_that_are_no_file_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a folder").mkdir()
    os.mkfifo(tmp_path / "a pipe")
    message = invalid(prompt_templates=str(tmp_path / name))
    assert message.startswith("prompt_templates (command line): ")
    assert message.endswith("there is no such file")


def test_prompt_templates_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    message = invalid(prompt_templates=str(tmp_path / ("x" * 300)))
    assert message.endswith("can't be read: File name too long")


@pytest.mark.parametrize("level", ["DEBUG", "debug", "Debug"])
def test_a_log_level_in_any_case(level: str) -> None:
    assert load({"log_level": level}).log_level == "debug"


def test_options_that_were_not_given_are_left_to_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, PORT="1")
    assert load({"port": None}).port == 1


def test_a_described_password_is_masked() -> None:
    url = "postgresql://me:hunter2@db.example:5432/rows?sslmode=require&password=hunter2"
    shown = described("database_url", {"database_url": url})
    assert shown.value == "postgresql://me:***@db.example:5432/rows?sslmode=require&password=***"
    assert (shown.default, shown.source) == ("-", "command line")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me@h/d", "postgresql://me@h/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
        ("postgresql://h/d?sslpassword=hunter2", "postgresql://h/d?sslpassword=***"),
        ("postgresql://me:@h/d", "postgresql://me:***@h/d"),
    ],
)
def test_what_is_no_password_is_shown(url: str, shown: str) -> None:
    assert mask_password(url) == shown


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1),
    st.sampled_from(
        [
            "postgresql://me:{}@h/d",
            "postgresql://:{}@h:1,i:2/d?sslmode=require",
            "postgresql://h/d?password={}",
            "postgresql://h/d?user=me&sslpassword={}&sslmode=require",
        ]
    ),
)
def test_a_password_is_never_shown(password: str, url: str) -> None:
    marked = f"hunter{password}2"
    assert "hunter" not in mask_password(url.format(quote(marked, safe="")))


@pytest.mark.parametrize("password", ["hun@ter", "hun:ter", "hun#ter", "hun?ter", "hun%ter", "@", "::"])
def test_a_password_that_was_not_quoted_is_not_shown_either(password: str) -> None:
    shown = mask_password(f"postgresql://me:secret{password}secret@h/d")
    assert "secret" not in shown
    assert shown.startswith("postgresql://me:***@h")


@pytest.mark.parametrize("key", ["pass%77ord", "sslp%61ssword"])
def test_a_password_under_a_quoted_key_is_not_shown(key: str) -> None:
    assert "secret" not in mask_password(f"postgresql://h/d?{key}=secret")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    password=st.text(min_size=1) | st.text(alphabet="0123456789/?#@:&= []%,", min_size=1),
    url=st.sampled_from(["postgresql://me:{}@h/d", "postgresql://me:{}@h:5432,i/d?user=me"]),
)
def test_a_password_that_is_not_encoded_is_refused_without_a_word_of_it_or_never_repeated(
    password: str, url: str
) -> None:
    given_url = url.format(f"12{password}hunter")
    try:
        taken, refused = load({"database_url": given_url}).database_url, ""
    except InvalidSetting as error:
        taken, refused = None, str(error)
    if taken is None:
        assert "hunter" not in refused
        assert refused.startswith("database_url (command line): ")
        return
    # What is taken is read as it was meant: nothing of it is a host, a port or an option.
    assert "hunter" in urlsplit(taken).netloc.partition("@")[0]
    assert "hunter" not in mask_password(taken)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pa/ss@host/db",
        "postgresql://u:12/ss@host/db",
        "postgresql://u:12?ss@host/db",
        "postgresql://u:12?ss=x@host/db",
        "postgresql://u:pa#ss@host/db",
        "postgresql://u:pa@ss@host/db",
        "postgresql://u:pa ss@host/db",
        "postgresql://u:p[ss@host/db",
    ],
)
def test_a_url_of_the_database_with_a_password_that_is_not_encoded_is_refused(url: str) -> None:
    message = invalid(database_url=url)
    assert "percent-encoded (@ is %40, / is %2F" in message
    assert "host/db" not in message
    assert "ss@" not in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgresql:///d?host=/run/postgresql&user=me@server&password=a@b",
        "postgresql://u:pa%2Fss%40@[::1]:5432,h:,i:1/d?sslmode=verify-full&application_name=a%40b",
        "postgresql://%2Frun%2Fpostgresql/d",
        "postgres://u:p%23,w@h/d?options=-c%20x%3D1",
    ],
)
def test_a_url_of_the_database_as_it_should_be_is_taken(url: str) -> None:
    assert load({"database_url": url}).database_url == url


def test_a_password_beside_an_at_of_the_query_is_not_shown() -> None:
    for url in (
        "postgresql://h/d?password=hunter@2",
        "postgresql://h:1/d?user=a@b&password=hunter",
        "postgresql://h/d?password=a:hunter@2",
    ):
        assert "hunter" not in mask_password(url)
