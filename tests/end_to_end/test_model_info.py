"""What the user interfaces of Chatchat and fufan ask about the server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.served import Gateway, running

POSTS = [
    "/llm_model/list_running_models",
    "/llm_model/list_config_models",
    "/llm_model/get_model_config",
    "/llm_model/stop",
    "/llm_model/change",
    "/server/configs",
    "/server/list_search_engines",
    "/server/get_prompt_template",
    "/other/embed_texts",
]
TEMPLATES = """
llm_chat:
  polite: "请 {{ input }}"
knowledge_base_chat:
  half: "\\ud800 {{ context }}"
5: {x: y}
"""


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose operator has written templates, also of types that are not used here."""
    file = tmp_path_factory.mktemp("templates") / "templates.yaml"
    file.write_text(TEMPLATES)
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated", GATEWAY_PROMPT_TEMPLATES=str(file)) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


def told(client: httpx.Client, path: str, body: dict[str, Any] | None = None) -> Any:
    answer = client.post(path, json=body or {})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_the_running_model_is_the_one_that_there_is(client: httpx.Client) -> None:
    running_models = told(client, "/llm_model/list_running_models", {"controller_address": None})
    assert (running_models["code"], running_models["msg"]) == (200, "success")
    assert running_models["data"].keys() == {"simulated"}
    # What the interface picks its default model by.
    assert running_models["data"]["simulated"]["online_api"] is False
    config = running_models["data"]["simulated"]
    assert config["max_model_len"] == 1_048_576
    of_types = told(client, "/llm_model/list_config_models")["data"]
    assert of_types == {"local": {"simulated": config}, "online": {}}
    assert told(client, "/llm_model/list_config_models", {"types": ["online"]})["data"] == {"online": {}}
    for body in ({}, {"model_name": None}, {"model_name": "simulated"}):
        assert told(client, "/llm_model/get_model_config", body)["data"] == config
    unknown = told(client, "/llm_model/get_model_config", {"model_name": "gpt-4"})
    assert (unknown["code"], unknown["data"]) == (404, {})
    assert "'simulated'" in unknown["msg"]


@pytest.mark.parametrize("prefix", ["/api", "/api/api"])
def test_fufans_front_end_is_given_names(client: httpx.Client, prefix: str) -> None:
    answer = client.get(f"{prefix}/llm_model/list_running_models")
    assert answer.json() == {"status": 200, "msg": "success", "data": {"models": ["simulated"]}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/llm_model/stop", {"model_name": "simulated"}),
        ("/llm_model/change", {"model_name": "simulated", "new_model_name": "other"}),
        ("/other/embed_texts", {"texts": ["x"], "embed_model": "m3e", "to_query": False}),
    ],
)
def test_what_one_model_can_not_do_is_said(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = told(client, path, body)
    assert (answer["code"], answer["data"]) == (500, None)
    assert "one" in answer["msg"]
    assert "'simulated'" in answer["msg"]


def test_the_settings_that_an_interface_reads_and_no_other(templated: Gateway) -> None:
    with httpx.Client(base_url=templated.base_url) as client:
        configs = told(client, "/server/configs")
        assert configs.keys() == {
            "LLM_MODELS",
            "HISTORY_LEN",
            "TEMPERATURE",
            "MAX_TOKENS",
            "PROMPT_TEMPLATES",
            "max_model_len",
            "api_address",
            "openai_api_address",
        }
        assert (configs["LLM_MODELS"], configs["HISTORY_LEN"], configs["TEMPERATURE"]) == (
            ["simulated"],
            3,
            0.7,
        )
        assert configs["PROMPT_TEMPLATES"]["llm_chat"]["polite"] == "请 {{ input }}"
        assert configs["PROMPT_TEMPLATES"]["completion"]["default"] == "{input}"
        assert client.get(f"{configs['openai_api_address']}/models").status_code == 200
        assert told(client, "/server/list_search_engines")["data"] == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "{{ input }}"),
        ({"type": None, "name": None}, "{{ input }}"),
        ({"type": "llm_chat", "name": "polite"}, "请 {{ input }}"),
        ({"type": "completion"}, "{input}"),
        ({"type": "knowledge_base_chat", "name": "half"}, "\ud800 {{ context }}"),
    ],
)
def test_a_template_is_a_bare_string(templated: Gateway, body: dict[str, Any], text: str) -> None:
    with httpx.Client(base_url=templated.base_url) as client:
        assert told(client, "/server/get_prompt_template", body) == text


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"name": "absent"}, "'polite'"),
        ({"type": "agent_chat"}, "none"),
        ({"type": "5", "name": "x"}, "none"),
    ],
)
def test_an_unknown_template_is_a_clear_error(templated: Gateway, body: dict[str, Any], word: str) -> None:
    with httpx.Client(base_url=templated.base_url) as client:
        answer = client.post("/server/get_prompt_template", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, 404)
    assert word in answer.json()["msg"]


@pytest.mark.parametrize("path", POSTS)
def test_the_body_need_not_be_there(client: httpx.Client, path: str) -> None:
    expected = told(client, path)
    page = {"origin": "http://localhost:8501"}
    json_type = {"content-type": "application/json"}
    for content, headers in (
        (None, {}),
        (None, page),
        (b"", json_type),
        (b" ", json_type),
        (b"null", json_type),
        (b'{"model_name": null, "types": null, "type": null, "name": null, "placeholder": null}', json_type),
    ):
        answer = client.post(path, content=content, headers=headers)
        assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/llm_model/list_config_models", {"types": ["remote"]}),
        ("/llm_model/list_config_models", {"types": "local"}),
        ("/llm_model/get_model_config", {"model_name": []}),
        ("/server/get_prompt_template", {"name": {}}),
        ("/server/configs", []),
    ],
)
def test_a_body_that_does_not_pass_is_a_422(client: httpx.Client, path: str, body: object) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, 422)
    assert answer.json()["detail"]
